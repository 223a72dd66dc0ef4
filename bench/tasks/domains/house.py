"""A house with lights, heating, sensors, doors and a robot that sweeps."""

from __future__ import annotations

from typing import Literal

from task import Task, World, tool

Room = Literal["kitchen", "bedroom", "living room", "bathroom", "office"]
Door = Literal["front door", "back door", "garage"]
SENSORS = {
    ("kitchen", "temperature"): 21.5, ("kitchen", "humidity"): 48,
    ("bedroom", "temperature"): 17.0, ("bedroom", "humidity"): 55,
    ("living room", "temperature"): 20.0, ("living room", "humidity"): 44,
    ("bathroom", "temperature"): 23.5, ("bathroom", "humidity"): 71,
    ("office", "temperature"): 19.0, ("office", "humidity"): 39,
}  # fmt: skip


class House(World):
    def __init__(self) -> None:
        super().__init__()
        self.lights = {"kitchen": 100, "bedroom": 0, "living room": 60, "bathroom": 0, "office": 80}
        self.heating = dict.fromkeys(self.lights, 20.0)
        self.locked = {"front door": True, "back door": False, "garage": False}
        self.swept: list[str] = []
        self.alarm = False

    def state(self) -> object:
        return self.lights, self.heating, self.locked, sorted(self.swept), self.alarm

    @tool(read_only=True)
    def read_sensor(self, room: Room, kind: Literal["temperature", "humidity"]) -> dict[str, float]:
        """What a room's sensor shows: degrees Celsius, or percent.

        Args:
            room: Which room.
            kind: What to read.
        """
        return {kind: SENSORS[room, kind]}

    @tool(read_only=True)
    def light_level(self, room: Room) -> dict[str, int]:
        """How bright a room's light is, in percent; 0 is off.

        Args:
            room: Which room.
        """
        return {"percent": self.lights[room]}

    @tool(idempotent=True)
    def set_light(self, room: Room, percent: int) -> dict[str, int]:
        """Set a room's light.

        Args:
            room: Which room.
            percent: 0 is off, 100 full.
        """
        self.lights[room] = percent
        return {"percent": percent}

    @tool(idempotent=True)
    def set_heating(self, room: Room, celsius: float) -> dict[str, float]:
        """Set the temperature that a room is heated to.

        Args:
            room: Which room.
            celsius: Degrees, at most 24.
        """
        if celsius > 24:
            raise ValueError("the heating goes up to 24 degrees")
        self.heating[room] = celsius
        return {"celsius": celsius}

    @tool(read_only=True)
    def open_doors(self) -> list[Door]:
        """The doors that are not locked."""
        return [name for name, locked in self.locked.items() if not locked]  # type: ignore[misc]

    @tool(idempotent=True)
    def lock(self, door: Door) -> dict[str, bool]:
        """Lock a door.

        Args:
            door: Which one.
        """
        self.locked[door] = True
        return {"locked": True}

    @tool(idempotent=True)
    def set_alarm(self, on: bool) -> dict[str, bool]:
        """Switch the burglar alarm on or off. It cannot be on while a door is open.

        Args:
            on: Whether it shall be on.
        """
        if on and not all(self.locked.values()):
            raise RuntimeError(f"not locked: {', '.join(self.open_doors())}; lock them first")
        self.alarm = on
        return {"on": on}

    @tool()
    def sweep(self, room: Room) -> dict[str, str]:
        """Send the robot to sweep a room. It needs light to see.

        Args:
            room: Which room.
        """
        if not self.lights[room]:
            raise RuntimeError(f"too dark in the {room}: set its light to 50 first")
        self.swept.append(room)
        return {"sweeping": room}


def _sensor(room: str, kind: str) -> tuple[str, dict[str, str]]:
    return "read_sensor", {"room": room, "kind": kind}


TASKS = (
    Task(
        "parallel",
        "Turn off the lights in the kitchen and in the office.",
        (
            ("set_light", {"room": "kitchen", "percent": 0}),
            ("set_light", {"room": "office", "percent": 0}),
        ),
    ),
    Task(
        "parallel",
        "How humid is it in the bathroom, in the bedroom and in the office?",
        tuple(_sensor(room, "humidity") for room in ("bathroom", "bedroom", "office")),
        (71, 55, 39),
    ),
    Task(
        "sequential",
        "Check how bright the light in the office is and set the one in the bedroom to the same.",
        (
            ("light_level", {"room": "office"}),
            ("set_light", {"room": "bedroom", "percent": 80}),
        ),
    ),
    Task(
        "sequential",
        "Heat the bedroom to whatever the temperature in the kitchen is right now.",
        (
            _sensor("kitchen", "temperature"),
            ("set_heating", {"room": "bedroom", "celsius": 21.5}),
        ),
    ),
    Task(
        "mixed",
        "See which doors are open and lock them all.",
        (
            ("open_doors", {}),
            ("lock", {"door": "back door"}),
            ("lock", {"door": "garage"}),
        ),
    ),
    Task(
        "mixed",
        "Compare the temperatures of the bedroom and the office and set the heating of the colder "
        "room to 22 degrees.",
        (
            _sensor("bedroom", "temperature"),
            _sensor("office", "temperature"),
            ("set_heating", {"room": "bedroom", "celsius": 22}),
        ),
    ),
    Task(
        "replan",
        "Let the robot sweep the bathroom.",
        (
            ("sweep", {"room": "bathroom"}),
            ("set_light", {"room": "bathroom", "percent": 50}),
            ("sweep", {"room": "bathroom"}),
        ),
    ),
    Task(
        "replan",
        "We're leaving, switch the alarm on.",
        (
            ("set_alarm", {"on": True}),
            ("lock", {"door": "back door"}),
            ("lock", {"door": "garage"}),
            ("set_alarm", {"on": True}),
        ),
    ),
    Task("missing", "Turn the light on.", says="In which room?"),
    Task(
        "missing", "Set the heating to a different temperature.", says="In which room, and to what?"
    ),
    Task(
        "irrelevant",
        "Order me a pizza with mushrooms.",
        says="I am sorry, I cannot order food.",
    ),
    Task(
        "irrelevant",
        "How many days does a week have?",
        facts=(7,),
        says="A week has 7 days.",
    ),
)
