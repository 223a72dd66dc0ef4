"""A handful of text files in folders."""

from __future__ import annotations

import difflib

from task import Task, World, tool

FILES = {
    "shopping/groceries.txt": "milk, eggs, rye bread, apples",
    "shopping/hardware.txt": "screws, wall paint, brush",
    "work/standup.txt": "Ship the parser. Ask Ines about the failing build.",
    "work/ideas.txt": "A plugin that finds dead code.",
    "work/old/minutes-march.txt": "Present: Ines, Bo, Tarek. Decision: release on 3 April.",
    "home/wifi.txt": "network: fjord, password: tall-trees-99",
    "home/plumber.txt": "Mr. Okafor, 555-0149, comes on Mondays",
}


class Notes(World):
    def __init__(self) -> None:
        super().__init__()
        self.files = dict(FILES)

    def state(self) -> object:
        return {path: " ".join(text.lower().split()) for path, text in self.files.items()}

    def _text(self, path: str) -> str:
        if path in self.files:
            return self.files[path]
        close = difflib.get_close_matches(path, self.files, 1, 0.5)
        raise FileNotFoundError(
            f"no file '{path}'" + (f"; did you mean '{close[0]}'?" if close else "")
        )

    @tool(read_only=True)
    def list_files(self, folder: str) -> list[str]:
        """Paths of the files in a folder.

        Args:
            folder: For example "music"; "" is everything.
        """
        return sorted(path for path in self.files if path.startswith(folder.strip("/")))

    @tool(read_only=True)
    def search_files(self, word: str) -> list[str]:
        """Paths of the files whose text has a word.

        Args:
            word: What to look for.
        """
        return sorted(path for path, text in self.files.items() if word.lower() in text.lower())

    @tool(read_only=True)
    def read_file(self, path: str) -> str:
        """The text of a file.

        Args:
            path: Its path, for example music/songs.txt.
        """
        return self._text(path)

    @tool(idempotent=True, destructive=True)
    def write_file(self, path: str, text: str) -> dict[str, str]:
        """Write a file; what was in it is replaced.

        Args:
            path: Its path.
            text: All that it will have.
        """
        if path == "work/standup.txt":
            raise PermissionError("work/standup.txt is locked; write to work/standup-2.txt instead")
        self.files[path] = text
        return {"written": path}

    @tool(destructive=True)
    def move_file(self, path: str, to: str) -> dict[str, str]:
        """Move or rename a file.

        Args:
            path: Where it is.
            to: Its new path.
        """
        self.files[to] = self._text(path)
        del self.files[path]
        return {"moved": path, "to": to}

    @tool(destructive=True)
    def delete_file(self, path: str) -> dict[str, str]:
        """Delete a file.

        Args:
            path: Its path.
        """
        self._text(path)
        del self.files[path]
        return {"deleted": path}


TASKS = (
    Task(
        "parallel",
        "Read me shopping/groceries.txt and shopping/hardware.txt.",
        (
            ("read_file", {"path": "shopping/groceries.txt"}),
            ("read_file", {"path": "shopping/hardware.txt"}),
        ),
        ("rye bread", "wall paint"),
    ),
    Task(
        "parallel",
        "Delete work/ideas.txt and shopping/hardware.txt.",
        (
            ("delete_file", {"path": "work/ideas.txt"}),
            ("delete_file", {"path": "shopping/hardware.txt"}),
        ),
    ),
    Task(
        "sequential",
        "In which file did I write about the wifi, and what is the password?",
        (("search_files", {"word": "password"}), ("read_file", {"path": "home/wifi.txt"})),
        ("home/wifi.txt", "tall-trees-99"),
    ),
    Task(
        "sequential",
        "Find the file that mentions Okafor and delete it.",
        (("search_files", {"word": "Okafor"}), ("delete_file", {"path": "home/plumber.txt"})),
    ),
    Task(
        "mixed",
        "Copy work/ideas.txt to backup/ideas.txt and home/wifi.txt to backup/wifi.txt.",
        (
            ("read_file", {"path": "work/ideas.txt"}),
            ("read_file", {"path": "home/wifi.txt"}),
            ("write_file", {"path": "backup/ideas.txt", "text": FILES["work/ideas.txt"]}),
            ("write_file", {"path": "backup/wifi.txt", "text": FILES["home/wifi.txt"]}),
        ),
    ),
    Task(
        "mixed",
        "Search my notes for Tarek and for apples, and move the files you find to archive/, "
        "keeping their file names.",
        (
            ("search_files", {"word": "Tarek"}),
            ("search_files", {"word": "apples"}),
            (
                "move_file",
                {"path": "work/old/minutes-march.txt", "to": "archive/minutes-march.txt"},
            ),
            ("move_file", {"path": "shopping/groceries.txt", "to": "archive/groceries.txt"}),
        ),
    ),
    Task(
        "replan",
        "What does home/wlan.txt say?",
        (("read_file", {"path": "home/wlan.txt"}), ("read_file", {"path": "home/wifi.txt"})),
        ("fjord",),
    ),
    Task(
        "replan",
        'Write "Fixed the build." to work/standup.txt.',
        (
            ("write_file", {"path": "work/standup.txt", "text": "Fixed the build."}),
            ("write_file", {"path": "work/standup-2.txt", "text": "Fixed the build."}),
        ),
        ("standup-2",),
    ),
    Task("missing", "Please rename the file.", says="Which file, and what should its name be?"),
    Task("missing", "Write that down in a note.", says="What should I write, and into which file?"),
    Task(
        "irrelevant",
        "Translate 'good morning' into Spanish.",
        facts=(("buenos días", "buen día"),),
        says="Good morning is 'buenos días' in Spanish.",
    ),
    Task(
        "irrelevant",
        "Hi there! How are you?",
        says="Hello! I am well, thank you. How can I help?",
    ),
)
