"""Whether an inference engine can serve an adapter as it is: yes, no or unknown, with the engine's rule and its source.

>>> facts = AdapterFacts(rank=24, alpha=48.0, target_modules=("q_proj", "v_proj"), architecture="LlamaForCausalLM", base="llama")
>>> judge(facts, "vllm").answer, judge(facts, "vllm").flags[:3]
(<Verdict.YES: 'yes'>, ('--enable-lora', '--max-lora-rank 32', '--lora-modules adapter=./adapter'))
>>> found = judge(AdapterFacts(rank=8, alpha=16.0, target_modules=("q_proj",), architecture="LlamaForCausalLM", use_dora=True), "vllm")
>>> found.answer, [finding.rule for finding in found.against]
(<Verdict.NO: 'no'>, ['dora'])

Each engine's rules are data in a TOML file of their own; `judging` applies them and knows no engine. A rule that can't be
decided from what is known makes the answer "unknown"; the answer is "yes" if no rule says otherwise.

The answer is derived and never stored. It depends on a version's record, which never changes, and on these tables, which change
with each release of an engine: a stored answer would describe old releases, and would have to be computed again for
every version whenever a table changes. Computing it takes less than a millisecond and needs no file of the adapter, so
`compat`, `show --format json` and the SDK compute it on request, and give the date of the tables.
"""

from sdk.lora.compatibility.answers import Compatibility, RuleFinding, RuleSource, Verdict
from sdk.lora.compatibility.engines import ENGINES
from sdk.lora.compatibility.facts import AdapterFacts
from sdk.lora.compatibility.judging import judge

__all__ = ["ENGINES", "AdapterFacts", "Compatibility", "RuleFinding", "RuleSource", "Verdict", "judge"]
