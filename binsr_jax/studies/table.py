"""The comparison table of a study: JSON rows first, everything else from them.

A row is ``{"title", "recipe", "operations", "parameters", "file_bytes", "scores", "steps",
"seconds", "error", "published"}``, with operations in G and parameters in K. ``published`` holds
operations, parameters and scores as a paper prints them. The first row is the degraded input
itself, which has scores only.
"""

import csv
import io
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]

_PSNR = "/psnr"


def markdown(about: str, rows: Sequence[Row]) -> str:
    """The table under a line about the study, and its agreement with the published order."""
    header, *lines = _cells(rows)
    parts = [about, _markdown_table(header, lines)]
    agreed = agreement(rows)
    if agreed:
        parts.append(_markdown_table(_AGREEMENT_HEADER, list(map(_agreement_cells, agreed))))
        parts += [
            f"Order on {found['score']}, best first: {' > '.join(found['order'])}.  \n"
            f"Published: {' > '.join(found['published_order'])}."
            for found in agreed
        ]
    errors = [f"{row['title']} failed: {row['error']}" for row in rows if row.get("error")]
    return "\n\n".join([*parts, *errors]) + "\n"


def latex(about: str, rows: Sequence[Row]) -> str:
    """The table as a ``tabular``, with the line about the study as its caption."""
    header, *lines = [[_latex_text(cell) for cell in line] for line in _cells(rows)]
    body = [" & ".join(line) + r" \\" for line in (header, *lines)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex_text(about)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
            r"\hline",
            body[0],
            r"\hline",
            *body[1:],
            r"\hline",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def comma_separated(rows: Sequence[Row]) -> str:
    """All numbers at full precision, one column each; missing ones are empty."""
    scores = list(dict.fromkeys(name for row in rows for name in row["scores"]))
    printed = [name for name in scores if name.endswith(_PSNR)]
    fields = ("title", "recipe", "operations", "parameters", "file_bytes", "steps", "seconds")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    paper = ["published_operations", "published_parameters", *(f"published_{n}" for n in printed)]
    writer.writerow([*fields, *scores, *paper])
    for row in rows:
        published = row.get("published", {})
        writer.writerow(
            [
                *(row.get(field) for field in fields),
                *(row["scores"].get(name) for name in scores),
                *(published.get(name) for name in ("operations", "parameters")),
                *(published.get("scores", {}).get(_set(name)) for name in printed),
            ]
        )
    return text.getvalue()


def agreement(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compares the order of the rows with the published order.

    Every score that at least three rows have both here and in a paper is compared.

    Returns:
        For each score: ``score``; ``rows``, their number; ``spearman``, the rank correlation
        (Spearman, 1904), None if all values are equal; ``pairs``, the number of pairs that differ
        in the paper; ``pairs_in_order``, how many of these have the same order here; and the titles
        in both orders.
    """
    found = []
    for name in _score_names(rows):
        both = [row for row in rows if name in _published(row) and name + _PSNR in row["scores"]]
        if len(both) < 3:
            continue
        here = [row["scores"][name + _PSNR] for row in both]
        paper = [_published(row)[name] for row in both]
        pairs = [
            (a > b) == (c > d) and a != b
            for (a, c), (b, d) in itertools.combinations(zip(here, paper, strict=True), 2)
            if c != d
        ]
        titles = [row["title"] for row in both]
        found.append(
            {
                "score": name,
                "rows": len(both),
                "spearman": spearman(here, paper),
                "pairs": len(pairs),
                "pairs_in_order": sum(pairs),
                "order": _sorted(titles, here),
                "published_order": _sorted(titles, paper),
            }
        )
    return found


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation: Pearson's correlation of the ranks, with ties averaged.

    Args:
        x: At least two numbers.
        y: As many numbers.

    Returns:
        -1..1, or None if all of ``x`` or all of ``y`` are equal.
    """
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else None


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, the highest value first; equal values share the mean of their ranks."""
    x = np.asarray(values, np.float64)
    above = (x[None] > x[:, None]).sum(1)
    equal = (x[None] == x[:, None]).sum(1)
    return above + (equal + 1) / 2


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """Header and rows of the table, published numbers in brackets."""
    names = _score_names(rows)
    trained = [row for row in rows if row.get("recipe")]
    ranked = next((n for n in names if sum(n in _published(r) for r in trained) > 1), None)
    by_rank = _rank_cells(trained, ranked) if ranked else {}
    header = ["Network", "OPs (G)", "Params (K)", "Packed (kB)", *names]
    if ranked:
        header.append(f"Rank on {ranked}")
    header += ["Steps", "Minutes"]
    lines = [header]
    for row in rows:
        paper = row.get("published", {})
        seconds = row.get("seconds")
        line = [
            row["title"],
            _pair(row.get("operations"), paper.get("operations"), 2),
            _pair(row.get("parameters"), paper.get("parameters"), 0),
            f"{row['file_bytes'] / 1e3:.1f}" if "file_bytes" in row else "",
            *(_pair(row["scores"].get(n + _PSNR), _published(row).get(n), 2) for n in names),
        ]
        if ranked:
            line.append(by_rank.get(row.get("recipe"), ""))
        if row.get("error"):
            line += ["failed", ""]
        else:
            steps = row.get("steps")
            line += [f"{steps:,}" if steps else "", f"{seconds / 60:.1f}" if seconds else ""]
        lines.append(line)
    filled = [i for i in range(len(header)) if any(line[i] for line in lines[1:])]
    return [[line[i] for i in filled] for line in lines]


def _rank_cells(rows: Sequence[Row], name: str) -> dict[Any, str]:
    """``"rank (published)"`` by recipe, among the rows that have both."""
    both = [row for row in rows if name in _published(row) and name + _PSNR in row["scores"]]
    if not both:
        return {}
    here = ranks([row["scores"][name + _PSNR] for row in both])
    paper = ranks([_published(row)[name] for row in both])
    return {row["recipe"]: f"{a:g} ({b:g})" for row, a, b in zip(both, here, paper, strict=True)}


def _score_names(rows: Sequence[Row]) -> list[str]:
    """Sets, or sets with levels, on which any row has a PSNR."""
    names = [name for row in rows for name in row["scores"] if name.endswith(_PSNR)]
    return [_set(name) for name in dict.fromkeys(names)]


def _set(name: str) -> str:
    return name.removesuffix(_PSNR)


def _published(row: Row) -> dict[str, float]:
    return row.get("published", {}).get("scores", {})


def _sorted(titles: Sequence[str], scores: Sequence[float]) -> list[str]:
    """Titles by descending score, equal ones by name."""
    return [title for _, title in sorted((-s, t) for s, t in zip(scores, titles, strict=True))]


def _pair(ours: float | None, paper: float | None, digits: int) -> str:
    first = "" if ours is None else f"{ours:.{max(digits, 1 if ours < 100 else 0)}f}"
    return first if paper is None else f"{first} ({paper:.{digits}f})".strip()


_AGREEMENT_HEADER = ["Score", "Rows", "Rank correlation", "Pairs in the published order"]


def _agreement_cells(found: dict[str, Any]) -> list[str]:
    correlation = "" if found["spearman"] is None else f"{found['spearman']:.2f}"
    pairs = f"{found['pairs_in_order']} of {found['pairs']}"
    return [found["score"], str(found["rows"]), correlation, pairs]


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    cells = [[cell.replace("|", r"\|") for cell in line] for line in (header, rule, *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def _latex_text(text: str) -> str:
    escaped = text.replace("\\", r"\textbackslash ")
    for character in "&%$#_{}":
        escaped = escaped.replace(character, "\\" + character)
    return escaped.replace("~", r"\textasciitilde ").replace("^", r"\textasciicircum ")
