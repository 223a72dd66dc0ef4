"""Accounts, exchange rates, shares and units of measure."""

from __future__ import annotations

from typing import Literal

from task import Task, World, tool

Currency = Literal["EUR", "USD", "GBP", "NOK", "JPY"]
Unit = Literal["km", "mile", "kg", "pound", "litre", "gallon"]
Account = Literal["checking", "savings", "holiday"]

PER_EURO = {"EUR": 1.0, "USD": 1.1, "GBP": 0.84, "NOK": 11.6, "JPY": 162.0}
SHARES = {"ACME": 41.5, "NORD": 128.0, "ZINC": 7.25}
UNITS = {"km": ("length", 1.0), "mile": ("length", 1.609), "kg": ("weight", 1.0),
         "pound": ("weight", 0.4536), "litre": ("volume", 1.0),
         "gallon": ("volume", 3.785)}  # fmt: skip


class Money(World):
    def __init__(self) -> None:
        super().__init__()
        self.accounts = {"checking": 1840.0, "savings": 9200.0, "holiday": 315.0}
        self.shares: dict[str, int] = {"ACME": 10}
        self.rates_are_fresh = False

    def state(self) -> object:
        rounded = {name: round(amount, 2) for name, amount in self.accounts.items()}
        return rounded, {name: count for name, count in self.shares.items() if count}

    @tool(read_only=True)
    def balance(self, account: Account) -> dict[str, float]:
        """What is on an account, in euros.

        Args:
            account: Which one.
        """
        return {"balance": self.accounts[account]}

    @tool()
    def transfer(self, source: Account, target: Account, amount: float) -> dict[str, float]:
        """Move euros from one account to another.

        Args:
            source: Account to take it from.
            target: Account to put it on.
            amount: How many euros.
        """
        if amount <= 0 or amount > self.accounts[source]:
            raise ValueError(f"{source} has only {self.accounts[source]:g} euros")
        self.accounts[source] -= amount
        self.accounts[target] += amount
        return {source: self.accounts[source], target: self.accounts[target]}

    @tool(read_only=True)
    def convert_currency(
        self, amount: float, source: Currency, target: Currency
    ) -> dict[str, float]:
        """Convert an amount of money at today's rate.

        Args:
            amount: How much.
            source: Currency that it is in.
            target: Currency to convert it to.
        """
        if target == "JPY" and not self.rates_are_fresh:
            self.rates_are_fresh = True
            raise ConnectionError("the rates are being loaded; ask again")
        return {"amount": round(amount / PER_EURO[source] * PER_EURO[target], 2)}

    @tool(read_only=True)
    def convert_unit(self, value: float, source: Unit, target: Unit) -> dict[str, float]:
        """Convert a length, a weight or a volume.

        Args:
            value: How much.
            source: Unit that it is in.
            target: Unit to convert it to.
        """
        (kind, size), (other_kind, other_size) = UNITS[source], UNITS[target]
        if kind != other_kind:
            raise ValueError(f"{source} is a {kind}, {target} a {other_kind}")
        return {"value": round(value * size / other_size, 3)}

    @tool(read_only=True)
    def share_price(self, ticker: str) -> dict[str, float]:
        """The price of a share in euros.

        Args:
            ticker: Its symbol, for example ABC.
        """
        if ticker not in SHARES:
            hint = next((name for name in SHARES if name[0] == ticker[:1].upper()), None)
            raise LookupError(
                f"no share '{ticker}'" + (f"; did you mean '{hint}'?" if hint else "")
            )
        return {"price": SHARES[ticker]}

    @tool()
    def buy_shares(self, ticker: str, count: int) -> dict[str, float]:
        """Buy shares with the money on the checking account.

        Args:
            ticker: Symbol of the share.
            count: How many.
        """
        cost = self.share_price(ticker)["price"] * count
        if cost > self.accounts["checking"]:
            raise ValueError(f"that is {cost:g} euros; checking has {self.accounts['checking']:g}")
        self.accounts["checking"] -= cost
        self.shares[ticker] = self.shares.get(ticker, 0) + count
        return {"cost": cost}

    @tool(read_only=True)
    def calculate(self, a: float, operation: Literal["add", "subtract", "multiply", "divide"],
                  b: float) -> dict[str, float]:  # fmt: skip
        """Calculate with two numbers.

        Args:
            a: The first.
            operation: What to do with them.
            b: The second.
        """
        match operation:
            case "add":
                result = a + b
            case "subtract":
                result = a - b
            case "multiply":
                result = a * b
            case "divide":
                result = a / b
        return {"result": round(result, 4)}


def _currency(amount: float, source: str, target: str) -> tuple[str, dict[str, object]]:
    return "convert_currency", {"amount": amount, "source": source, "target": target}


TASKS = (
    Task(
        "parallel",
        "How much is on my checking account, and how much on the savings account?",
        (("balance", {"account": "checking"}), ("balance", {"account": "savings"})),
        (1840, 9200),
    ),
    Task(
        "parallel",
        "Convert 26.2 miles to km and 150 pounds to kg.",
        (
            ("convert_unit", {"value": 26.2, "source": "mile", "target": "km"}),
            ("convert_unit", {"value": 150, "source": "pound", "target": "kg"}),
        ),
        ((42.156, 42.2), (68.04, 68)),
    ),
    Task(
        "sequential",
        "What is one NORD share worth in US dollars?",
        (("share_price", {"ticker": "NORD"}), _currency(128, "EUR", "USD")),
        (140.8,),
    ),
    Task(
        "sequential",
        "Look up what is on my holiday account and move all of it to savings.",
        (
            ("balance", {"account": "holiday"}),
            ("transfer", {"source": "holiday", "target": "savings", "amount": 315}),
        ),
    ),
    Task(
        "mixed",
        "What do one ACME share and one NORD share cost together?",
        (
            ("share_price", {"ticker": "ACME"}),
            ("share_price", {"ticker": "NORD"}),
            ("calculate", {"a": 41.5, "operation": "add", "b": 128}),
        ),
        (169.5,),
    ),
    Task(
        "mixed",
        "Convert 500 US dollars and 420 British pounds to euros and add the two up.",
        (
            _currency(500, "USD", "EUR"),
            _currency(420, "GBP", "EUR"),
            ("calculate", {"a": 454.55, "operation": "add", "b": 500}),
        ),
        ((954.55, 954.5, 955),),
    ),
    Task(
        "replan",
        "How many yen (JPY) are 200 euros?",
        (_currency(200, "EUR", "JPY"), _currency(200, "EUR", "JPY")),
        (32400,),
    ),
    Task(
        "replan",
        "Buy 3 shares of ZNC for me.",
        (
            ("buy_shares", {"ticker": "ZNC", "count": 3}),
            ("buy_shares", {"ticker": "ZINC", "count": 3}),
        ),
    ),
    Task("missing", "Transfer 100 euros for me.", says="From which account, and to which one?"),
    Task("missing", "Buy some shares.", says="Of which company, and how many?"),
    Task(
        "irrelevant",
        "What colour do you get when you mix blue and yellow?",
        facts=("green",),
        says="Blue and yellow make green.",
    ),
    Task(
        "irrelevant",
        "Remind me tomorrow at eight to water the plants.",
        says="I am sorry, I have no way to remind you.",
    ),
)
