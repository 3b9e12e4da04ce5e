"""The page's own HTML: sentences, the progress and the table of results."""

import html
from collections.abc import Sequence

from binsr_jax.service.visits import Done, Visit


def welcome(most_pictures: int, most_pixels: int) -> str:
    """The text in place of the results before the first order."""
    return (
        '<div class="empty"><p>Drop pictures into the field, choose or paste them '
        f"(up to {most_pictures}, of {most_pixels / 1e6:g} megapixels each), and press "
        "Restore.</p><p>Here you then compare before and after: drag the line, zoom with the "
        "wheel or two fingers.</p></div>"
    )


def note(sentence: str, *, wrong: bool = False) -> str:
    """A sentence in place of the progress; a ``wrong`` one is red, and read aloud at once."""
    kind = "alert" if wrong else "status"
    return f'<p role="{kind}" class="{"wrong" if wrong else "note"}">{html.escape(sentence)}</p>'


def progress(share: float, words: str) -> str:
    """A progress bar with a line below; ``share`` is in 0..1."""
    text = html.escape(words)
    bar = f'<progress max="1" value="{share:.3f}" aria-label="done"></progress>'
    return f'<div class="note">{bar}<p role="status">{text}</p></div>'


def summary(visit: Visit, count: int) -> str:
    """How many of the ``count`` pictures were restored, and in what time."""
    restored, failed = len(visit.restored), len(visit.done) - len(visit.restored)
    seconds = sum(done.result.seconds for done in visit.restored if done.result)
    parts = [f"{restored} of {count} restored in {seconds:.1f} s"]
    if failed:
        parts.append(f"{failed} failed")
    if visit.stopped:
        parts.append("stopped")
    return note("; ".join(parts) + ".", wrong=bool(failed) and not restored)


def table(done: Sequence[Done]) -> str:
    """A table with a row for each picture. Everything is escaped: visitors choose the names."""
    if not done:
        return ""
    head = ("Picture", "Before", "After", "File", "Network", "Time", "Notes")
    rows = []
    for one in done:
        name = one.job.source.name
        if one.result is None:
            rows.append(
                f'<tr><td>{html.escape(name)}</td><td colspan="6" class="wrong">'
                f"{html.escape(one.sentence)}</td></tr>"
            )
            continue
        result = one.result
        size = result.file.stat().st_size if result.file.exists() else 0
        cells = (
            name,
            "{} x {}".format(*result.before),
            "{} x {}".format(*result.after),
            f"{size / 1e6:.2f} MB",
            result.network,
            f"{result.seconds:.1f} s",
            "; ".join(result.notes),
        )
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{title}</th>" for title in head)
    return f"<div class='wide'><table><tr>{titles}</tr>{''.join(rows)}</table></div>"
