"""Rows as lines of strict JSON."""

import json

from binsr_jax.json_lines import json_line, read_rows


def test_what_is_not_finite_is_null_at_any_depth() -> None:
    row = {"scores": {"a/psnr": float("inf"), "b/psnr": 1.5}, "about": [{"x": float("nan")}]}
    expected = {"scores": {"a/psnr": None, "b/psnr": 1.5}, "about": [{"x": None}]}

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(json_line(row), parse_constant=refuse) == expected


def test_lines_that_are_no_rows_are_dropped(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n[2]\n{"a": 3\n\n{"a": 4}\n{"a": 5, "b')
    assert read_rows(path) == [{"a": 1}, {"a": 4}]
    assert read_rows(tmp_path / "none.jsonl") == []
