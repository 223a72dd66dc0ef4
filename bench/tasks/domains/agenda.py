"""A calendar of one week in June 2026, and an address book."""

from __future__ import annotations

from dataclasses import dataclass

from task import Task, World, tool


@dataclass(slots=True)
class Event:
    id: int
    title: str
    date: str
    start: str
    minutes: int


@dataclass(frozen=True, slots=True)
class Contact:
    name: str
    email: str
    phone: str


CONTACTS = (
    Contact("Nina Holm", "nina@holm.example", "555-0134"),
    Contact("Paul Adler", "paul.adler@work.example", "555-0177"),
    Contact("Sofia Reyes", "s.reyes@mail.example", "555-0192"),
)


class Agenda(World):
    def __init__(self) -> None:
        super().__init__()
        rows = (
            (1, "Team meeting", "2026-06-08", "09:30", 60),
            (2, "Dentist", "2026-06-09", "14:00", 45),
            (3, "Lunch with Nina", "2026-06-09", "12:15", 60),
            (4, "Budget review", "2026-06-10", "10:00", 90),
            (5, "Piano lesson", "2026-06-11", "17:30", 45),
        )
        self.events = {row[0]: Event(*row) for row in rows}
        self.mails: list[tuple[str, int]] = []

    def state(self) -> object:
        events = [(e.title.lower(), e.date, e.start, e.minutes) for e in self.events.values()]
        return sorted(events), sorted(self.mails)

    def _event(self, id: int) -> Event:
        if id not in self.events:
            raise LookupError(f"there is no event {id}")
        return self.events[id]

    @tool(read_only=True)
    def list_events(self, date: str) -> list[Event]:
        """The events of a day.

        Args:
            date: The day, YYYY-MM-DD.
        """
        return sorted((e for e in self.events.values() if e.date == date), key=lambda e: e.start)

    @tool(read_only=True)
    def find_event(self, title: str) -> Event:
        """The event with this title.

        Args:
            title: Its title, or words of it.
        """
        for event in self.events.values():
            if title.lower() in event.title.lower():
                return event
        known = next((e for e in self.events.values() if set(title.lower().split())
                      & set(e.title.lower().split())), None)  # fmt: skip
        hint = f"; did you mean '{known.title}'?" if known else ""
        raise LookupError(f"no event called '{title}'{hint}")

    @tool()
    def add_event(self, title: str, date: str, start: str, minutes: int = 60) -> Event:
        """Put an event into the calendar. Fails where there is another one at that time.

        Args:
            title: What it is.
            date: The day, YYYY-MM-DD.
            start: When it begins, HH:MM.
            minutes: How long it takes.
        """
        for other in self.events.values():
            if other.date == date and _overlap(other, start, minutes):
                raise ValueError(f"'{other.title}' is at that time; {_free_after(other)} is free")
        event = Event(max(self.events) + 1, title, date, start, minutes)
        self.events[event.id] = event
        return event

    @tool(idempotent=True)
    def move_event(self, id: int, date: str, start: str) -> Event:
        """Move an event to another time.

        Args:
            id: Its number, as find_event and list_events tell it.
            date: The new day, YYYY-MM-DD.
            start: The new time, HH:MM.
        """
        event = self._event(id)
        event.date, event.start = date, start
        return event

    @tool(idempotent=True, destructive=True)
    def delete_event(self, id: int) -> dict[str, int]:
        """Delete an event.

        Args:
            id: Its number, as find_event and list_events tell it.
        """
        self._event(id)
        del self.events[id]
        return {"deleted": id}

    @tool(read_only=True)
    def find_contact(self, name: str) -> Contact:
        """Email address and phone number of a person.

        Args:
            name: First name, last name or both.
        """
        for contact in CONTACTS:
            if name.lower() in contact.name.lower():
                return contact
        hint = {"Sophia": "Sofia", "Pol": "Paul"}.get(name.split()[0].title(), "")
        raise LookupError(f"nobody called '{name}'" + (f"; did you mean '{hint}'?" if hint else ""))

    @tool()
    def send_invitation(self, event_id: int, email: str) -> dict[str, str | int]:
        """Invite somebody to an event by email.

        Args:
            event_id: The event's number.
            email: Whom to invite.
        """
        self._event(event_id)
        if "@" not in email:
            raise ValueError(f"'{email}' is no email address")
        self.mails.append((email.lower(), event_id))
        return {"invited": email, "event_id": event_id}


def _minutes(time: str) -> int:
    return int(time[:2]) * 60 + int(time[3:5])


def _overlap(event: Event, start: str, minutes: int) -> bool:
    begins = _minutes(event.start)
    return begins < _minutes(start) + minutes and _minutes(start) < begins + event.minutes


def _free_after(event: Event) -> str:
    end = _minutes(event.start) + event.minutes
    return f"{end // 60:02d}:{end % 60:02d}"


TASKS = (
    Task(
        "parallel",
        "What are the phone numbers of Nina Holm and Paul Adler?",
        (("find_contact", {"name": "Nina Holm"}), ("find_contact", {"name": "Paul Adler"})),
        ("555-0134", "555-0177"),
    ),
    Task(
        "parallel",
        'Put "Gym" into my calendar on 12 June 2026 at 07:00 for 60 minutes, and "Call mum" the '
        "same day at 19:00 for 30 minutes.",
        (
            ("add_event", {"title": "Gym", "date": "2026-06-12", "start": "07:00", "minutes": 60}),
            (
                "add_event",
                {"title": "Call mum", "date": "2026-06-12", "start": "19:00", "minutes": 30},
            ),
        ),
    ),
    Task(
        "sequential",
        "Move the dentist to 10 June 2026 at 16:00.",
        (
            ("find_event", {"title": "Dentist"}),
            ("move_event", {"id": 2, "date": "2026-06-10", "start": "16:00"}),
        ),
    ),
    Task(
        "sequential",
        "Cancel my piano lesson. Just delete it from the calendar.",
        (("find_event", {"title": "Piano lesson"}), ("delete_event", {"id": 5})),
    ),
    Task(
        "mixed",
        "Invite Sofia Reyes to the budget review.",
        (
            ("find_event", {"title": "Budget review"}),
            ("find_contact", {"name": "Sofia Reyes"}),
            ("send_invitation", {"event_id": 4, "email": "s.reyes@mail.example"}),
        ),
    ),
    Task(
        "mixed",
        "Invite both Nina Holm and Paul Adler to the team meeting.",
        (
            ("find_event", {"title": "Team meeting"}),
            ("find_contact", {"name": "Nina Holm"}),
            ("find_contact", {"name": "Paul Adler"}),
            ("send_invitation", {"event_id": 1, "email": "nina@holm.example"}),
            ("send_invitation", {"event_id": 1, "email": "paul.adler@work.example"}),
        ),
    ),
    Task(
        "replan",
        "What's Sophia's email address?",
        (("find_contact", {"name": "Sophia"}), ("find_contact", {"name": "Sofia"})),
        ("s.reyes@mail.example",),
    ),
    Task(
        "replan",
        'Add "Interview" on 10 June 2026 at 10:30 for 30 minutes. If I am busy then, use the next '
        "free time.",
        (
            (
                "add_event",
                {"title": "Interview", "date": "2026-06-10", "start": "10:30", "minutes": 30},
            ),
            (
                "add_event",
                {"title": "Interview", "date": "2026-06-10", "start": "11:30", "minutes": 30},
            ),
        ),
        ("11:30",),
    ),
    Task(
        "missing",
        "Set up a meeting with Paul for me.",
        says="Gladly: on which day and at what time should it be?",
    ),
    Task(
        "missing",
        "Move my appointment to Friday at ten.",
        says="Which appointment do you mean?",
    ),
    Task(
        "irrelevant",
        "What is 12 times 12?",
        facts=(144,),
        says="12 times 12 is 144.",
    ),
    Task(
        "irrelevant",
        "Can you play some jazz in the living room?",
        says="I'm sorry, I cannot play music.",
    ),
)
