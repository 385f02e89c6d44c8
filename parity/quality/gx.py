"""The one door to Great Expectations: its suites, its stores and its Data Docs, in a folder.

It is an extra, and slow to import (seconds), so it is imported here and when it is asked for. Nothing is sent to
its makers.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import warnings
from collections.abc import Container, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from functools import cached_property
from io import StringIO
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import unquote

import pandas as pd

from parity.definition.expectations import OF_TABLE, Ago, Expectation, SameWeekday, Usually
from parity.edge.errors import UserError
from parity.quality.day import Day, LargeDay, as_frame
from parity.quality.parts import added_up, questions

NUMBER = "parity"
"""What the meta of an expectation has its number by."""
ENDINGS = (" but for the newest day", " on days without rows", "")
"""What is added to the name of a suite for those of its expectations that are asked of some days."""
SILENT = {"GX_ANALYTICS_ENABLED": "false", "TQDM_DISABLE": "1"}


class Seen(NamedTuple):
    """What an expectation came to on a day."""

    success: bool
    judged: bool
    """Whether there was anything to hold it to."""
    observed: Any
    """The number that was seen of a day, None of an expectation of each row."""
    looked_at: int
    """How many values, of an expectation of each row."""
    unexpected: int
    first: list[int]
    """The first rows that are not as expected, by their place in the day: all of them of one with a quarantine."""
    bounds: Mapping[str, Any]
    """The arguments that depend on the day."""


def great_expectations() -> ModuleType:
    """The package. `UserError` if it is not installed."""
    os.environ.update(SILENT)
    try:
        import great_expectations
    except ModuleNotFoundError:
        raise UserError("Great Expectations is not installed. Run: pip install -r requirements-quality.txt") from None
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    return great_expectations


class Store:
    """A folder of Great Expectations: suites, results by day, and Data Docs."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.gx = great_expectations()
        self.context = self._opened()
        self.context.variables.progress_bars = {"globally": False}
        source = self.context.data_sources.add_or_update_pandas("parity")
        self._source = source

    def _opened(self) -> Any:
        """The project. Configuration that can't be read, as of a run that was killed, is left beside a new one."""
        folder = self.folder / "gx"
        files = [folder / "great_expectations.yml", folder / "uncommitted" / "config_variables.yml"]
        while True:
            try:
                with redirect_stdout(StringIO()), redirect_stderr(StringIO()):  # where it prints what it also raises
                    return self.gx.get_context(mode="file", project_root_dir=str(self.folder))
            except OSError:
                raise
            except Exception as error:  # of many kinds
                files = [file for file in files if file.exists()]
                if not files:
                    reason = f"Great Expectations can't open it: {error!s:.300}. Remove it."
                    raise UserError(f"{folder}: {reason}") from None
                for file in files:
                    file.replace(file.with_suffix(".damaged"))
                files = []

    def suite(self, name: str, expectations: Sequence[Expectation]) -> Suite:
        """Keep ``expectations`` as a suite, in place of an earlier one of that ``name``."""
        return Suite(self, name, expectations)

    def build_docs(self, at: datetime) -> Path:
        """Build the pages of Data Docs of the run at this instant, beside those of earlier ones; that of the first.

        All pages anew would take a tenth of a second for each day that was ever kept.
        """
        from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier

        of_run = self._keys(at)
        suites = [
            ExpectationSuiteIdentifier(name)
            for name in sorted({key.expectation_suite_identifier.name for key in of_run})
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            built = self.context.build_data_docs(resource_identifiers=[*suites, *of_run])
        return _path(next(iter(built.values())))

    def pages(self, at: datetime, chosen: Container[tuple[str, str]]) -> dict[tuple[str, str], Path]:
        """The pages of the ``chosen`` days of suites, of the run at this instant."""
        found = {}
        for key in self._keys(at):
            suite = key.expectation_suite_identifier.name
            for ending in ENDINGS:
                named = suite.removesuffix(ending), key.run_id.run_name
                if named in chosen:
                    [site] = self.context.get_docs_sites_urls(resource_identifier=key)[:1]
                    found[named] = _path(site["site_url"])
        return found

    def _keys(self, at: datetime) -> list[Any]:
        """The results of the run at this instant."""
        return [key for key in self.context.validation_results_store.list_keys() if key.run_id.run_time == at]


class Suite:
    """Expectations, ready to be asked of days."""

    def __init__(self, store: Store, name: str, expectations: Sequence[Expectation]):
        self.store, self.name, self.expectations = store, file_name(name), list(expectations)
        self._asset = store._source.add_dataframe_asset(self.name)
        self._batch = self._asset.add_batch_definition_whole_dataframe("day")

    @cached_property
    def _whole(self) -> Any:
        return self._kept(self.name, range(len(self.expectations)))

    @cached_property
    def _of_days_in_general(self) -> Any:
        numbers = [number for number, one in enumerate(self.expectations) if not one.newest_day]
        return self._kept(self.name + ENDINGS[0], numbers)

    @cached_property
    def _of_empty_days(self) -> Any:
        """What is asked of a day without rows: how many there are."""
        numbers = [n for n, one in enumerate(self.expectations) if one.type.startswith(OF_TABLE)]
        return self._kept(self.name + ENDINGS[1], numbers)

    def _kept(self, name: str, numbers: Sequence[int]) -> Any:
        if not numbers:
            return None
        suite, suites = self._suite(name, numbers), self.store.context.suites
        try:
            return suites.add_or_update(suite)
        except (TypeError, ValueError):  # an earlier one can't be read, as of a run that was killed
            (self.store.folder / "gx" / "expectations" / f"{name}.json").unlink(missing_ok=True)
            return suites.add_or_update(suite)

    def _suite(self, name: str, numbers: Sequence[int]) -> Any:
        return self.store.gx.ExpectationSuite(name=name, expectations=[self._made(number) for number in numbers])

    def _made(self, number: int) -> Any:
        """The real expectation. `UserError` if Great Expectations has none such, or takes other arguments."""
        one = self.expectations[number]
        kwargs = {
            name: {"$PARAMETER": parameter(number, name)} if depends(value) else value
            for name, value in one.arguments.items()
        }
        implementation = _implementation(one)
        try:
            return implementation(**kwargs, severity=one.severity, meta={NUMBER: number})
        except (ValueError, TypeError) as error:
            reasons = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in getattr(error, "errors", list)()]
            raise UserError(f"{one}: Great Expectations refuses it: {'; '.join(reasons) or error}.") from None

    def validate(
        self, day: Day | LargeDay, parameters: Mapping[str, Any], run: Run, in_full: bool = False
    ) -> dict[int, Seen]:
        """Ask a day, by the number of each expectation that is asked of it, and keep what it came to.

        ``in_full`` has all rows named that are not as expected, not the first of them.
        """
        if not self.expectations:
            return {}
        suite = self._of_empty_days if not day.count else self._whole if run.newest else self._of_days_in_general
        if suite is None:
            return {}
        if isinstance(day, LargeDay):
            results = self._in_parts(day, parameters, suite, in_full)
        else:
            results = self._asked(as_frame(day.rows), parameters, suite, in_full)
        seen = {one.expectation_config.meta[NUMBER]: self._seen(one, parameters) for one in results.results}
        self._keep(results, run)
        return seen

    def _asked(self, frame: pd.DataFrame, parameters: Mapping[str, Any], suite: Any, in_full: bool) -> Any:
        batch = self._batch.get_batch({"dataframe": frame})
        whole = in_full or any(one.quarantine for one in self.expectations)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return batch.validate(
                suite,
                result_format="COMPLETE" if whole else "SUMMARY",
                expectation_parameters=dict(parameters),
            )

    def _in_parts(self, day: LargeDay, parameters: Mapping[str, Any], suite: Any, in_full: bool) -> Any:
        """What a suite comes to on a day that is asked in parts."""
        numbers = [one.meta[NUMBER] for one in suite.expectations]
        found: dict[int, Any] = {}
        for asked in questions(day, {number: self.expectations[number] for number in numbers}):
            part = self._suite(suite.name, asked.numbers)
            answers: dict[int, list[Any]] = {}
            for frame in asked.frames:
                whole = self._asked(frame, parameters, part, in_full)
                for one in whole.results:
                    answers.setdefault(one.expectation_config.meta[NUMBER], []).append(one)
            for number, some in answers.items():
                mostly = self.expectations[number].arguments.get("mostly", 1)
                found[number] = added_up(some, parameters.get(parameter(number, "mostly"), mostly))
        whole.results = [found[number] for number in numbers]
        fine = sum(bool(one.success) for one in whole.results)
        whole.success = fine == len(numbers)
        whole.statistics = {
            "evaluated_expectations": len(numbers),
            "successful_expectations": fine,
            "unsuccessful_expectations": len(numbers) - fine,
            "success_percent": fine / len(numbers) * 100,
        }
        return whole

    def _keep(self, results: Any, run: Run) -> None:
        """Keep what a day came to, as Great Expectations does."""
        from great_expectations.core.run_identifier import RunIdentifier
        from great_expectations.data_context.types.resource_identifiers import (
            ExpectationSuiteIdentifier,
            ValidationResultIdentifier,
        )
        from great_expectations.util import convert_to_json_serializable

        for one in results.results:
            one.success = bool(one.success)  # a boolean of numpy, as of quantiles, can't be kept
            one.result = convert_to_json_serializable(one.result)
        named, suite = RunIdentifier(run.name, run.at), ExpectationSuiteIdentifier(results.suite_name)
        results.success = bool(results.success)
        results.meta |= {"run_id": named, "validation_time": run.at}
        self.store.context.validation_results_store.store_validation_results(
            results, ValidationResultIdentifier(suite, named, results.batch_id), suite
        )

    def _seen(self, result: Any, parameters: Mapping[str, Any]) -> Seen:
        number = result.expectation_config.meta[NUMBER]
        one, found = self.expectations[number], result.result or {}
        if reason := _exception(result.exception_info):
            raise UserError(f"{self.name}: {one} can't be asked of this data: {reason:.300}")
        bounds = {name: parameters[parameter(number, name)] for name, value in one.arguments.items() if depends(value)}
        return Seen(
            success=bool(result.success),
            judged=not bounds or any(bound is not None for bound in bounds.values()) or _has_others(one),
            observed=found.get("observed_value"),
            looked_at=int(found.get("element_count") or 0) - int(found.get("missing_count") or 0),
            unexpected=int(found.get("unexpected_count") or 0),
            first=[
                int(row)
                for row in found.get("unexpected_index_list") or found.get("partial_unexpected_index_list") or []
            ],
            bounds=bounds,
        )


class Run(NamedTuple):
    """A day of a run."""

    name: str
    at: datetime
    newest: bool


def _path(url: str) -> Path:
    return Path(unquote(url.removeprefix("file://")))


def file_name(name: str) -> str:
    """What is kept of a ``name``, where it becomes that of files and a part of addresses."""
    plain = re.sub(r"[^\w .-]+", "_", name)
    return plain if plain == name else f"{plain} {hashlib.sha256(name.encode()).hexdigest()[:8]}"


def depends(value: Any) -> bool:
    """Whether an argument is another on another day."""
    return isinstance(value, SameWeekday | Usually | Ago | datetime)


def parameter(number: int, name: str) -> str:
    """What Great Expectations calls an argument that depends on the day."""
    return f"{name}_{number}"


def _has_others(one: Expectation) -> bool:
    return any(name in one.arguments and not depends(one.arguments[name]) for name in ("min_value", "max_value"))


def _implementation(one: Expectation) -> Any:
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import get_expectation_impl

    try:
        return get_expectation_impl(one.type)
    except ExpectationNotFoundError:
        raise UserError(f"{one}: Great Expectations has no expectation of that name.") from None


def _exception(info: Mapping[str, Any] | None) -> str | None:
    """Why an expectation could not be asked; None if it was."""
    info = info or {}
    if info.get("raised_exception"):
        return str(info.get("exception_message"))
    raised = [one for one in info.values() if isinstance(one, Mapping) and one.get("raised_exception")]
    return str(raised[0].get("exception_message")) if raised else None
