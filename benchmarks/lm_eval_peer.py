"""Log-likelihoods by lm-evaluation-harness: the peer of `log_likelihoods.py`, and of `tests/assets/make_lm_eval.py`.

    LM_EVAL_PYTHON benchmarks/lm_eval_peer.py < ORDER.json

ORDER is `{"base", "adapter", "batch_size", "kinds": {NAME: [[context, continuation], …]}}`. It uses nothing of this project, runs in an
environment of its own that has lm-eval, and prints one line of JSON: of each kind the sums of the continuations, and what the
forward passes took.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def main() -> None:
    """Score the pairs of the order on standard input."""
    order = json.load(sys.stdin)
    model = HFLM(
        pretrained=order["base"],
        peft=order["adapter"],
        dtype="float32",
        device="cpu",
        batch_size=order["batch_size"],
    )
    spent: dict[str, float] = {}
    forward = model._loglikelihood_tokens

    def timed(requests: list, **options: object) -> list:
        # Without tokenising, which we have done by then, too.
        started = time.perf_counter(), time.process_time()
        found = forward(requests, **options)
        spent["forward_s"], spent["processor_s"] = (
            time.perf_counter() - started[0],
            time.process_time() - started[1],
        )
        spent["tokens"] = sum(len(context) + len(continuation) for _, context, continuation in requests)
        return found

    model._loglikelihood_tokens = timed
    said = {}
    for kind, pairs in order["kinds"].items():
        instances = [
            Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=number)
            for number, pair in enumerate(pairs)
        ]
        found = model.loglikelihood(instances, disable_tqdm=True)
        said[kind] = {"log_likelihoods": [total for total, _ in found], **spent}
    print(json.dumps({"kinds": said, "lm_eval": version("lm-eval")}))


if __name__ == "__main__":
    main()
