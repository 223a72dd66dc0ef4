"""The worlds that tasks are played in, and all tasks."""

from task import Placed, place

from domains import agenda, house, library, money, notes, shop, travel

TASKS: tuple[Placed, ...] = (
    *place("travel", travel.Travel, travel.TASKS),
    *place("shop", shop.Shop, shop.TASKS),
    *place("agenda", agenda.Agenda, agenda.TASKS),
    *place("notes", notes.Notes, notes.TASKS),
    *place("money", money.Money, money.TASKS),
    *place("house", house.House, house.TASKS),
    *place("library", library.Library, library.TASKS),
)
