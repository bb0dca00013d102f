"""Figures of ours beside the peer's, and the table that they become."""

import json
import os
from statistics import median


class Figure:
    """One thing that was measured in pairs. Less is better; work: what was done in that time, for a rate."""

    def __init__(self, name, unit, peer, work=None):
        self.name, self.unit, self.peer_name, self.work = name, unit, peer, work
        self.ours, self.peer = [], []
        self.amounts = []

    def add(self, ours, peer, amount=None):
        self.ours.append(ours)
        self.peer.append(peer)
        self.amounts.append(amount)

    def ratios(self):
        """Of each round's pair, so that what slows the machine for a while slows both."""
        return [a / b for a, b in zip(self.ours, self.peer)]

    def amount(self):
        return median(a for a in self.amounts if a is not None) if self.work else None

    def show(self, value):
        text = f"{value:.2f} {self.unit}" if self.unit == "s" else f"{value:.1f} {self.unit}"
        return f"{text} ({self.amount() / value:,.0f} {self.work}/s)" if self.work else text

    def row(self):
        ratios = self.ratios()
        spread = f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else ""
        return [self.name, self.show(median(self.ours)), self.peer_name, self.show(median(self.peer)),
                f"{median(ratios):.2f}{spread}"]

    def as_json(self):
        return {"name": self.name, "unit": self.unit, "peer": self.peer_name, "work": self.work,
                "amount": self.amount(), "ours_median": median(self.ours), "peer_median": median(self.peer),
                "ratio_median": median(self.ratios()), "ours": self.ours, "peers": self.peer,
                "ratios": self.ratios()}


HEAD = ["measure", "pgcutover", "peer", "peer's", "ratio"]


def table(figures):
    """Markdown whose columns stand under each other in a terminal, too."""
    rows = [HEAD] + [f.row() for f in figures if f.ours]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def write(directory, about, figures, details, notes):
    """bench.md and bench.json; returns the text."""
    text = "\n\n".join([
        "# pgcutover, measured beside its peers",
        ", ".join(f"{k}: {v}" for k, v in about.items()),
        table(figures),
        "Medians of the rounds; a ratio below 1 is in our favour, and it is the median of each round's own "
        "(in brackets the lowest and the highest).",
        "\n".join(f"- {note}" for note in notes)]) + "\n"
    with open(os.path.join(directory, "bench.md"), "w", encoding="utf-8") as f:
        f.write(text)
    with open(os.path.join(directory, "bench.json"), "w", encoding="utf-8") as f:
        json.dump({"about": about, "figures": [f.as_json() for f in figures if f.ours], "details": details,
                   "notes": notes}, f, indent=1)
        f.write("\n")
    return text
