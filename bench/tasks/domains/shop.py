"""A shop's products and orders. Its parcel service fails the first time it is asked."""

from __future__ import annotations

from dataclasses import dataclass

from task import Task, World, tool


@dataclass(frozen=True, slots=True)
class Product:
    sku: str
    name: str
    price: float
    stock: int


@dataclass(slots=True)
class Order:
    order: str
    customer: str
    sku: str
    quantity: int
    status: str


PRODUCTS = {
    one.sku: one
    for one in (
        Product("KB-10", "mechanical keyboard", 89.5, 12),
        Product("MS-22", "wireless mouse", 24.9, 40),
        Product("MN-27", "27 inch monitor", 219.0, 0),
        Product("MN-24", "24 inch monitor", 149.0, 6),
        Product("HD-05", "headphones", 64.0, 18),
        Product("CB-01", "usb cable", 7.5, 200),
    )
}
TRACKING = {"A1001": "in Hamburg, arrives on Thursday", "A1003": "with the courier, arrives today"}


class Shop(World):
    def __init__(self) -> None:
        super().__init__()
        rows = (
            ("A1001", "dana fox", "KB-10", 1, "shipped"),
            ("A1002", "dana fox", "HD-05", 2, "open"),
            ("A1003", "omar diaz", "CB-01", 4, "shipped"),
            ("A1004", "li wen", "MN-24", 1, "delivered"),
            ("A1005", "li wen", "MS-22", 1, "open"),
        )
        self.orders = {row[0]: Order(*row) for row in rows}
        self.carrier_is_up = False

    def state(self) -> object:
        old = [(o.order, o.status, o.quantity) for o in self.orders.values() if o.order < "A2000"]
        new = [(o.customer, o.sku, o.quantity) for o in self.orders.values() if o.order > "A2000"]
        return sorted(old), sorted(new)

    def _order(self, number: str) -> Order:
        if number not in self.orders:
            raise LookupError(f"there is no order '{number}'")
        return self.orders[number]

    @tool(read_only=True)
    def find_products(self, text: str) -> list[Product]:
        """Products whose name has these words, with price in euros and pieces in stock.

        Args:
            text: What to look for, for example "lamp".
        """
        words = text.lower().split()
        found = [p for p in PRODUCTS.values() if all(word.rstrip("s") in p.name for word in words)]
        if not found and "screen" in text.lower():
            raise LookupError(f"nothing called '{text}'; did you mean 'monitor'?")
        return found

    @tool(read_only=True)
    def get_order(self, order: str) -> Order:
        """An order: customer, product, quantity and status.

        Args:
            order: Order number, for example A1234.
        """
        return self._order(order)

    @tool(read_only=True)
    def orders_of(self, customer: str) -> list[Order]:
        """All orders of a customer.

        Args:
            customer: Full name.
        """
        found = [o for o in self.orders.values() if o.customer == customer.lower()]
        if not found:
            raise LookupError(f"no customer '{customer}'")
        return found

    @tool()
    def place_order(self, customer: str, sku: str, quantity: int) -> dict[str, str | float]:
        """Order a product for a customer.

        Args:
            customer: Full name.
            sku: The product's article number, for example XY-12.
            quantity: How many.
        """
        if sku not in PRODUCTS:
            raise LookupError(f"there is no article '{sku}'; find_products knows the numbers")
        if PRODUCTS[sku].stock < quantity:
            raise ValueError(f"{PRODUCTS[sku].name} ({sku}) is out of stock")
        number = f"A{2001 + len(self.orders)}"
        self.orders[number] = Order(number, customer.lower(), sku, quantity, "open")
        return {"order": number, "total": quantity * PRODUCTS[sku].price}

    @tool(idempotent=True, destructive=True)
    def cancel_order(self, order: str) -> dict[str, str]:
        """Cancel an order that has not been shipped.

        Args:
            order: Order number.
        """
        found = self._order(order)
        if found.status != "open":
            raise ValueError(f"order {order} is {found.status} already; use return_order instead")
        found.status = "cancelled"
        return {"order": order, "status": "cancelled"}

    @tool(idempotent=True)
    def return_order(self, order: str) -> dict[str, str]:
        """Start the return of an order that was shipped or delivered.

        Args:
            order: Order number.
        """
        found = self._order(order)
        if found.status == "open":
            raise ValueError(f"order {order} is not shipped yet; use cancel_order instead")
        found.status = "return"
        return {"order": order, "status": "return", "label": f"RET-{order}"}

    @tool(read_only=True)
    def track_parcel(self, order: str) -> dict[str, str]:
        """Where the parcel of a shipped order is.

        Args:
            order: Order number.
        """
        self._order(order)
        if not self.carrier_is_up:
            self.carrier_is_up = True
            raise ConnectionError("the carrier did not answer; try again")
        return {"order": order, "parcel": TRACKING.get(order, "not shipped yet")}


def _of(tool_name: str, order: str) -> tuple[str, dict[str, str]]:
    return tool_name, {"order": order}


TASKS = (
    Task(
        "parallel",
        "What's the status of orders A1002 and A1004?",
        (_of("get_order", "A1002"), _of("get_order", "A1004")),
        ("open", "delivered"),
    ),
    Task(
        "parallel",
        "Cancel order A1002 and order A1005.",
        (_of("cancel_order", "A1002"), _of("cancel_order", "A1005")),
    ),
    Task(
        "sequential",
        "Order two wireless mice (search for 'wireless mouse') for Omar Diaz. What is the total?",
        (
            ("find_products", {"text": "wireless mouse"}),
            ("place_order", {"customer": "Omar Diaz", "sku": "MS-22", "quantity": 2}),
        ),
        (49.8,),
    ),
    Task(
        "sequential",
        "Dana Fox wants to cancel the order of hers that hasn't been shipped yet.",
        (("orders_of", {"customer": "Dana Fox"}), _of("cancel_order", "A1002")),
    ),
    Task(
        "mixed",
        "Li Wen needs headphones and a usb cable, one of each. Look both up and order them for "
        "her.",
        (
            ("find_products", {"text": "headphones"}),
            ("find_products", {"text": "usb cable"}),
            ("place_order", {"customer": "Li Wen", "sku": "HD-05", "quantity": 1}),
            ("place_order", {"customer": "Li Wen", "sku": "CB-01", "quantity": 1}),
        ),
    ),
    Task(
        "mixed",
        "Check orders A1001 and A1002 and cancel whichever is still open.",
        (_of("get_order", "A1001"), _of("get_order", "A1002"), _of("cancel_order", "A1002")),
        ("A1002",),
    ),
    Task(
        "replan",
        "Where is the parcel of order A1001?",
        (_of("track_parcel", "A1001"), _of("track_parcel", "A1001")),
        ("Hamburg",),
    ),
    Task(
        "replan",
        "I don't want order A1004 any more, cancel it. If that isn't possible, send it back.",
        (_of("cancel_order", "A1004"), _of("return_order", "A1004")),
        ("RET-A1004",),
    ),
    Task(
        "replan",
        "What does a 24 inch screen cost?",
        (("find_products", {"text": "24 inch screen"}), ("find_products", {"text": "monitor"})),
        (149,),
    ),
    Task(
        "missing",
        "I'd like to cancel my order.",
        says="Which order is it? Please tell me its number or your name.",
    ),
    Task(
        "missing",
        "Please order some keyboards for me.",
        says="How many do you need, and in whose name?",
    ),
    Task(
        "irrelevant",
        "Write me a short rhyme about the rain.",
        says="The rain comes down on roof and lane, and washes all things clean again.",
    ),
    Task(
        "irrelevant",
        "What's the capital of France?",
        facts=("Paris",),
        says="The capital of France is Paris.",
    ),
)
