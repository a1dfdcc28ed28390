"""Areas under the ROC curve of single classes, each with its positives and negatives: for a terminal and as Markdown.

A mean over classes hides that one of them may rest on seven cases. Here every area stands beside how many it rests on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from comodal.evaluation.metrics import name_parts, threshold_of
from comodal.evaluation.results import Results
from comodal.evaluation.table import Cell, StudyTable
from comodal.reporting.class_sections import at_least_text, figure_row, of_row, target_cells
from comodal.reporting.tables import PlainTable, cell_text, class_targets, plain_markdown

_NONE = "–"


def areas_table(table: StudyTable, results: Mapping[str, Sequence[Results]]) -> PlainTable | None:
    """AUROC of each class against the rest; of ordinal targets also of each class and all above it against those below.

    Args:
        table: The combined table of the results.
        results: {label of the method: its runs}.

    Returns:
        One line for each class; None where no class is predicted. A method's numbers are those of the row of the table in which
        it uses most modalities.
    """
    rows: list[tuple[str, ...]] = []
    sources: dict[str, list[str]] = {}  # {row of the table: methods}
    for target in class_targets(table.metrics):
        cells: dict[str, Mapping[str, Cell]] = {}
        sides: dict[str, tuple[int | None, int | None]] = {}
        for method in results:
            row = figure_row(table, method, f"accuracy/{target}")
            cells[method] = {}
            if row is not None:
                own = [of_row(one, row.present) for one in results[method]]
                cells[method] = target_cells(own, target)
                for name, value in (pair for one in own for subset in one.subsets for pair in subset.metrics.items()):
                    sides.setdefault(name, (value.n_pos, value.n_neg))  # also where that leaves the area undefined
                told = sources.setdefault(" + ".join(row.present), [])
                told += [method] if method not in told else []
        names = next((run.classes[target] for runs in results.values() for run in runs if target in run.classes), ())
        rows += _lines(target, names, cells, sides)
    if not rows:
        return None
    heads = [f"AUROC {method}" if len(results) > 1 else "AUROC" for method in results]
    said = "AUROC [95 % interval over patients] of each class against the rest, and how many cases have the class and have not"
    columns = ("target", "class", "positive", "negative", *heads)
    where = [f"from {row}" if len(sources) == 1 else f"{', '.join(of)} from {row}" for row, of in sources.items()]
    return PlainTable(columns, tuple(rows), f"{said}; {'; '.join(where)}.", 2)


def areas_markdown(table: StudyTable, results: Mapping[str, Sequence[Results]]) -> str:
    """The same in Markdown; "" where no class is predicted.

    Args:
        table: As in `areas_table`.
        results: As in `areas_table`.
    """
    found = areas_table(table, results)
    return "" if found is None else plain_markdown(found)


def _lines(
    target: str,
    classes: Sequence[str],
    cells: Mapping[str, Mapping[str, Cell]],
    sides: Mapping[str, tuple[int | None, int | None]],
) -> Iterator[tuple[str, ...]]:
    every = dict.fromkeys(name for own in cells.values() for name in own if name_parts(name)[0] == "AUROC")
    single = [name for name in every if name_parts(name)[2]] or list(every)  # of two classes there is one area
    for name in single:
        found = [own.get(name, Cell("not run")) for own in cells.values()]
        counts = next(((c.n_pos, c.n_neg) for c in found if c.n_pos is not None), sides.get(name, (None, None)))
        texts = []
        for cell in found:
            other = cell.state == "value" and (cell.n_pos, cell.n_neg) != counts
            text = "not defined" if cell.state == "no cases" else cell_text(cell, name)
            texts.append(text + (f" ({cell.n_pos} of {cell.n})" if other else ""))
        yield (target, _class(name, classes), *(_NONE if n is None else str(n) for n in counts), *texts)


def _class(name: str, classes: Sequence[str]) -> str:
    """The class whose area it is, in words."""
    label = name_parts(name)[2]
    k = threshold_of(label, classes)
    if k is not None:
        return at_least_text(classes[k])
    return label or (classes[1] if len(classes) == 2 else _NONE)
