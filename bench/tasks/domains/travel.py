"""Flights, hotels and the weather of five cities in May 2026."""

from __future__ import annotations

from dataclasses import dataclass

from task import Task, World, tool


@dataclass(frozen=True, slots=True)
class Flight:
    flight: str
    departs: str
    price: int
    seats: int


@dataclass(frozen=True, slots=True)
class Hotel:
    hotel: str
    price_per_night: int
    stars: int


@dataclass(frozen=True, slots=True)
class Weather:
    city: str
    celsius: int
    sky: str


FLIGHTS = {
    ("Oslo", "Rome", "2026-05-12"): (
        Flight("SK230", "07:10", 189, 14), Flight("SK231", "11:40", 149, 0),
        Flight("DY880", "16:05", 164, 3),
    ),
    ("Oslo", "Lisbon", "2026-05-14"): (
        Flight("TP751", "06:30", 231, 9), Flight("DY912", "13:20", 118, 22),
    ),
    ("Rome", "Vienna", "2026-05-15"): (
        Flight("OS506", "09:00", 97, 5), Flight("AZ402", "18:45", 121, 31),
    ),
    ("Vienna", "Cairo", "2026-05-20"): (Flight("MS798", "14:15", 342, 7),),
}  # fmt: skip
HOTELS = {
    "Rome": (Hotel("Hotel Alba", 112, 3), Hotel("Villa Borghi", 240, 5)),
    "Lisbon": (Hotel("Casa Azul", 84, 3), Hotel("Tejo Palace", 175, 4)),
    "Vienna": (Hotel("Hotel Donau", 129, 4), Hotel("Pension Rosa", 71, 2)),
}
WEATHER = {"Oslo": (9, "rain"), "Rome": (24, "sunny"), "Lisbon": (21, "windy"),
           "Vienna": (17, "cloudy"), "Cairo": (35, "clear")}  # fmt: skip
_OTHER_NAMES = {"wien": "Vienna", "roma": "Rome", "lisboa": "Lisbon", "al qahira": "Cairo"}


def _city(name: str) -> str:
    if name.title() in WEATHER:
        return name.title()
    other = _OTHER_NAMES.get(name.lower())
    raise LookupError(f"no city '{name}'" + (f"; did you mean '{other}'?" if other else ""))


class Travel(World):
    def __init__(self) -> None:
        super().__init__()
        self.flights: list[tuple[str, str]] = []
        self.hotels: list[tuple[str, str, int]] = []

    def state(self) -> object:
        return sorted(self.flights), sorted(self.hotels)

    @tool(read_only=True)
    def search_flights(self, origin: str, destination: str, date: str) -> list[Flight]:
        """Flights between two cities on a day, with price in euros and free seats.

        Args:
            origin: City to fly from.
            destination: City to fly to.
            date: Day of travel, YYYY-MM-DD.
        """
        found = FLIGHTS.get((_city(origin), _city(destination), date))
        if found is None:
            raise LookupError(f"no flights from {origin} to {destination} on {date}")
        return list(found)

    @tool()
    def book_flight(self, flight: str, passenger: str) -> dict[str, str]:
        """Book one seat on a flight.

        Args:
            flight: Flight number, for example LH123.
            passenger: Full name of the passenger.
        """
        known = {one.flight: one for day in FLIGHTS.values() for one in day}
        if flight not in known:
            raise LookupError(f"there is no flight '{flight}'")
        if not known[flight].seats:
            raise ValueError(f"flight {flight} is full; search for another one")
        self.flights.append((flight, passenger.lower()))
        return {"booking": f"B{len(self.flights)}", "flight": flight, "passenger": passenger}

    @tool(read_only=True)
    def search_hotels(self, city: str) -> list[Hotel]:
        """Hotels in a city, with the price of a night in euros.

        Args:
            city: Where to stay.
        """
        return list(HOTELS.get(_city(city), ()))

    @tool()
    def book_hotel(self, hotel: str, guest: str, nights: int) -> dict[str, str | int]:
        """Book a room.

        Args:
            hotel: Name of the hotel.
            guest: Full name of the guest.
            nights: Number of nights.
        """
        prices = {
            one.hotel.lower(): one.price_per_night for rooms in HOTELS.values() for one in rooms
        }
        if hotel.lower() not in prices:
            raise LookupError(f"there is no hotel '{hotel}'")
        self.hotels.append((hotel.lower(), guest.lower(), nights))
        return {"hotel": hotel, "nights": nights, "total": nights * prices[hotel.lower()]}

    @tool(read_only=True)
    def weather(self, city: str, date: str) -> Weather:
        """The weather forecast for a city on a day.

        Args:
            city: Name of the city.
            date: The day, YYYY-MM-DD.
        """
        return Weather(_city(city), *WEATHER[_city(city)])


def _weather(city: str, day: int) -> tuple[str, dict[str, str]]:
    return "weather", {"city": city, "date": f"2026-05-{day}"}


def _search(origin: str, destination: str, day: int) -> tuple[str, dict[str, str]]:
    return "search_flights", {
        "origin": origin,
        "destination": destination,
        "date": f"2026-05-{day}",
    }


TASKS = (
    Task(
        "parallel",
        "How warm will it be in Oslo and in Rome on 12 May 2026?",
        (_weather("Oslo", 12), _weather("Rome", 12)),
        (9, 24),
    ),
    Task(
        "parallel",
        "Please book flight OS506 for Maria Rossi and flight MS798 for Jon Berg.",
        (
            ("book_flight", {"flight": "OS506", "passenger": "Maria Rossi"}),
            ("book_flight", {"flight": "MS798", "passenger": "Jon Berg"}),
        ),
    ),
    Task(
        "sequential",
        "Book the cheapest flight from Oslo to Lisbon on 14 May 2026 for Ann Lee.",
        (
            _search("Oslo", "Lisbon", 14),
            ("book_flight", {"flight": "DY912", "passenger": "Ann Lee"}),
        ),
        ("DY912",),
    ),
    Task(
        "sequential",
        "Find a hotel in Lisbon for less than 100 euros a night and book it for Tom Price, "
        "three nights. What does the stay cost?",
        (
            ("search_hotels", {"city": "Lisbon"}),
            ("book_hotel", {"hotel": "Casa Azul", "guest": "Tom Price", "nights": 3}),
        ),
        (252,),
    ),
    Task(
        "mixed",
        "My name is Ann Lee. Book me the earliest flight from Rome to Vienna on 2026-05-15 and "
        "two nights in the cheapest hotel in Vienna.",
        (
            _search("Rome", "Vienna", 15),
            ("search_hotels", {"city": "Vienna"}),
            ("book_flight", {"flight": "OS506", "passenger": "Ann Lee"}),
            ("book_hotel", {"hotel": "Pension Rosa", "guest": "Ann Lee", "nights": 2}),
        ),
    ),
    Task(
        "mixed",
        "Look up the weather in Rome and in Vienna on 16 May 2026. If Rome is warmer, book Hotel "
        "Alba for Eva Kern for 2 nights, otherwise Hotel Donau. Tell me both temperatures.",
        (
            _weather("Rome", 16),
            _weather("Vienna", 16),
            ("book_hotel", {"hotel": "Hotel Alba", "guest": "Eva Kern", "nights": 2}),
        ),
        (24, 17),
    ),
    Task(
        "replan",
        "What's the weather like in Wien on 12 May 2026?",
        (_weather("Wien", 12), _weather("Vienna", 12)),
        ((17, "cloudy"),),
    ),
    Task(
        "replan",
        "Book flight SK231 from Oslo to Rome on 12 May 2026 for Ann Lee. If it is full, take the "
        "cheapest other one that day.",
        (
            ("book_flight", {"flight": "SK231", "passenger": "Ann Lee"}),
            _search("Oslo", "Rome", 12),
            ("book_flight", {"flight": "DY880", "passenger": "Ann Lee"}),
        ),
        ("DY880",),
    ),
    Task(
        "missing",
        "Can you book me a flight to Rome?",
        says="Sure: where do you fly from, on which day, and what is your name?",
    ),
    Task(
        "missing",
        "Reserve a room at Hotel Donau, please.",
        says="For whom, and for how many nights?",
    ),
    Task(
        "irrelevant",
        "Thanks, that was all I needed. Have a nice day!",
        says="You're welcome. Have a good trip!",
    ),
    Task("irrelevant", "How many minutes are there in two hours?", (), (120,), "120 minutes."),
)
