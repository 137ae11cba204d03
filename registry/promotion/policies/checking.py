"""What is refused when a policy is set, because nothing could pass it or nobody would know what it means; and how the names in
it are made exact, so that it asks for the same tomorrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points

from sqlalchemy.orm import Session

from registry.catalog.versions.finding import find_version
from registry.datasets.finding import FoundDataset, find_dataset
from registry.errors import Invalid, NotFound
from registry.jobs.available_workers import lately_seen_workers
from registry.jobs.kinds.evaluation import EVALUATION
from registry.jobs.needs import require_installed, require_scorers, written
from registry.principal import EVERYWHERE, Principal
from registry.promotion.policies.metrics import misfit, unknown, why_not
from sdk.formats.refs import Ref
from sdk.schemas.evaluation import SCORER_PREFIX, Better, EvaluationSpec, better_is, is_of_texts, is_scorer
from sdk.schemas.policies import MetricRule, PolicyDocument, RowsRule
from sdk.schemas.work import DIRECTIONS_GROUP

#: The most characters of all regular expressions of a policy.
_MOST_EXPRESSIONS = 1000
#: The most versions that a policy names: each is looked up again with every question.
_MOST_VERSIONS = 20
#: What a scorer may declare.
_DIRECTIONS: dict[str, Better] = {"less": "less", "more": "more"}


def exact(
    session: Session, document: PolicyDocument, *, scope: str, namespace: str, who: Principal, embedded: bool
) -> PolicyDocument:
    """Return a policy in which every name is exact: datasets by their digests, directions of scorers as declared now.

    Keys are not looked at: see `checked_keys`. Raises Invalid for what nothing can pass, NotFound for a dataset, a version or a
    scorer that the caller can't find.
    """
    _require_short(document)
    rules = []
    scorers = {name for rule in document.require for name in rule.metrics if is_scorer(name)}
    declared = _declared(session, namespace, embedded=embedded) if scorers else {}
    checked: set[str] = set()
    for number, rule in enumerate(document.require):
        param = f"policy.require.{number}"
        rules.append(_exact_rows(session, rule, param, namespace, who, declared, embedded=embedded))
        for name, metric in rule.metrics.items():
            _require_references(session, metric, f"{param}.metrics.{name}.against", scope, who, checked)
    return document.model_copy(update={"require": rules})


def _require_short(document: PolicyDocument) -> None:
    """Raise Invalid for many versions, and for many expressions: each is made ready again whenever the policy is read."""
    metrics = [metric for rule in document.require for metric in rule.metrics.values()]
    versions = {one for metric in metrics for one in metric.against or () if one.startswith("v")}
    if len(versions) > _MOST_VERSIONS:
        raise Invalid(
            f"a policy compares with at most {_MOST_VERSIONS} given versions, and this one names {len(versions)}; write incumbent "
            "or best in place of some",
            param="policy.require",
        )
    expressions = {rule.evaluation.regex for rule in document.require} - {None}
    if sum(len(each or "") for each in expressions) > _MOST_EXPRESSIONS:
        raise Invalid(
            f"the expressions of a policy have at most {_MOST_EXPRESSIONS} characters together; give shorter ones, or a scorer",
            param="policy.require",
        )


def _exact_rows(
    session: Session,
    rule: RowsRule,
    param: str,
    namespace: str,
    who: Principal,
    declared: Mapping[str, Better],
    *,
    embedded: bool,
) -> RowsRule:
    prefer = None if namespace == EVERYWHERE else namespace
    found = find_dataset(session, rule.data, who, prefer=prefer, param=f"{param}.data")
    called = _name_of(session, rule, found, prefer, who)
    row, shown = found.row, called or found.row.digest[:12]
    if row.rows is not None and row.rows < rule.min_rows:
        raise Invalid(
            f"{shown} has {row.rows} rows, fewer than the {rule.min_rows} of min_rows, so that nothing could pass; give more "
            f"rows, or a min_rows of at most {row.rows}",
            param=f"{param}.min_rows",
        )
    if row.format == "parquet" and (column := rule.by or rule.cluster):
        raise Invalid(
            f"the rows of {shown} are Parquet, of which the registry reads no column {column[:80]!a}; add them as JSONL: "
            "adapterctl data add FILE",
            param=f"{param}.{'by' if rule.by else 'cluster'}",
        )
    scorers = sorted({_scorer_of(name) for name in rule.metrics if is_scorer(name) and unknown(name) is None})
    _require_known(session, scorers, f"{param}.metrics", namespace, who, embedded=embedded)
    # Other columns may make rows of another shape.
    shape = row.shape if rule.evaluation.columns is None else None
    metrics = {
        name: _exact_metric(name, metric, f"{param}.metrics.{name}", shape, declared)
        for name, metric in rule.metrics.items()
    }
    evaluation = _exact_evaluation(rule, f"{param}.evaluation")
    return rule.model_copy(
        update={"data": row.digest, "data_name": called, "metrics": metrics, "evaluation": evaluation}
    )


def _name_of(session: Session, rule: RowsRule, found: FoundDataset, prefer: str | None, who: Principal) -> str | None:
    """What the rows are called: as they were found, or as a policy that was shown and is set again calls them."""
    if found.name is not None:
        return f"{found.name}@v{found.number}"
    if rule.data_name is None:
        return None
    try:
        named = find_dataset(session, rule.data_name, who, prefer=prefer)
    except (Invalid, NotFound):
        return None
    return rule.data_name if named.row.digest == found.row.digest else None


def _exact_metric(
    name: str, rule: MetricRule, param: str, shape: str | None, declared: Mapping[str, Better]
) -> MetricRule:
    own = declared.get(name.removeprefix(SCORER_PREFIX)) if is_scorer(name) else None
    if own is not None and rule.better not in (None, own):
        raise Invalid(f"the scorer declares that {own} of {name} is better; leave better out", param=f"{param}.better")
    better = own or rule.better
    if why := unknown(name) or misfit(name, shape) or why_not(name, rule, better):
        raise Invalid(why, param=param)
    return rule.model_copy(update={"better": better if better_is(name) is None else None})


def _exact_evaluation(rule: RowsRule, param: str) -> EvaluationSpec:
    """How the rows are scored, with as many answers as rows are needed."""
    spec = rule.evaluation
    asked = {*(spec.metrics or ()), *(SCORER_PREFIX + name for name in spec.scorers or ())}
    judged = {name if not is_scorer(name) else SCORER_PREFIX + _scorer_of(name) for name in rule.metrics}
    if idle := sorted(asked - judged):
        raise Invalid(
            f"{', '.join(idle)} is asked for and judged by nothing; which scores are made follows from metrics, so leave it out",
            param=f"{param}.metrics",
        )
    if "regex" in rule.metrics and spec.regex is None:
        raise Invalid("the metric regex needs an expression; give evaluation: {regex: EXPRESSION}", param=param)
    texts = [name for name in rule.metrics if is_of_texts(name)]
    if not texts or spec.generate_rows >= rule.min_rows:
        return spec
    # Clients send the default, too.
    if spec.generate_rows != EvaluationSpec().generate_rows:
        raise Invalid(
            f"{texts[0]} is a score of answers, of which {spec.generate_rows} are generated, fewer than the {rule.min_rows} of "
            "min_rows, so that nothing could pass; leave generate_rows out, or give more",
            param=f"{param}.generate_rows",
        )
    return spec.model_copy(update={"generate_rows": rule.min_rows})


def _require_references(
    session: Session, rule: MetricRule, param: str, scope: str, who: Principal, checked: set[str]
) -> None:
    """Raise Invalid, NotFound for a version that there is not, unless it was `checked` before."""
    for reference in rule.against or ():
        if not reference.startswith("v") or reference in checked:
            continue
        checked.add(reference)
        if "*" in scope:
            raise Invalid(
                f"{reference} is a version of one adapter, and this policy is for all of {scope}; write incumbent or best, or "
                "set it for the adapter",
                param=param,
            )
        try:
            find_version(session, Ref(scope, reference), who)
        except NotFound as error:
            raise NotFound(error.message, param=param) from error


def _require_known(
    session: Session, scorers: list[str], param: str, namespace: str, who: Principal, *, embedded: bool
) -> None:
    """Raise Invalid for a scorer that no worker has which could be asked."""
    try:
        if embedded:
            require_installed(scorers)
        elif namespace != EVERYWHERE:
            require_scorers(session, written(scorers), who, namespace=namespace, queue=EVALUATION.queue)
    except Invalid as error:
        raise Invalid(error.message, param=param) from None


def _declared(session: Session, namespace: str, *, embedded: bool) -> dict[str, Better]:
    """The directions that scorers declare: score, without the prefix, → direction; none of those that workers disagree on."""
    if embedded:
        said = {(entry.name, entry.value) for entry in entry_points(group=DIRECTIONS_GROUP)}
    else:
        workers = lately_seen_workers(session)
        said = {
            (score, better)
            for worker in workers
            if namespace == EVERYWHERE or worker.serves(EVALUATION.queue, namespace)
            for scorer in worker.scorers or ()
            for score, better in (scorer.get("better") or {}).items()
        }
    known: dict[str, set[Better]] = {}
    for score, better in said:
        if better in _DIRECTIONS:
            known.setdefault(score, set()).add(_DIRECTIONS[better])
    return {score: next(iter(ways)) for score, ways in known.items() if len(ways) == 1}


def _scorer_of(metric: str) -> str:
    return metric.removeprefix(SCORER_PREFIX).partition(".")[0]
