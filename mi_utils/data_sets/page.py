"""docs/data.md out of the registry: `python -m mi_utils.data_sets.page > docs/data.md`."""

from mi_utils.data_sets.registry import DATA_SETS, DataSet, Need

HEAD = """# Real data sets

The profiles `smoke` and `laptop` need no data set. `gpu` and `paper` read those below from one folder, the one that
`MI_DATA` names (default: `data/` of the clone). Nothing is downloaded: get each from its own page, under its own terms.

```
MI_DATA=/my/data python -m mi_utils data check              what is there, what is missing, where it should lie
MI_DATA=/my/data python -m mi_utils data check mnist celeba these alone; exit status 1 unless they are complete
```

Terms are as we found them stated; read the data set's own page before you use it.

"""

TABLE = (
    "| name | data set | where to get it | licence | layout under `MI_DATA` | read by |\n|---|---|---|---|---|---|\n"
)

KINDS = {
    "file": "`{path}`",
    "images": "`{path}/` with {least:,} images or more",
    "classes": "`{path}/<class>/`, {least:,} classes or more",
    "parquet": "`{path}`",
    "list": "`{path}`, a list of files in `{of}/`",
}


def page() -> str:
    """The whole page."""
    return HEAD + TABLE + "".join(_row(one) for one in DATA_SETS)


def _row(one: DataSet) -> str:
    layout = "<br>".join(map(_need, one.needs)) + (f"<br>{one.hint}" if one.hint else "")
    readers = "<br>".join(f"{paper} `{profile}`" for paper, profile in one.profiles)
    return f"| `{one.name}` | {one.title} | {one.source} | {one.licence} | {layout} | {readers} |\n"


def _need(need: Need) -> str:
    return KINDS[need.kind].format(path=need.path, least=need.least, of=need.of)


if __name__ == "__main__":
    print(page(), end="")
