"""Examples of requests, for the OpenAPI document: one story of an adapter, from its base to its alias."""

from __future__ import annotations

from typing import Any

from sdk.schemas.failures import FailureReason

_FINGERPRINT = "3f1a5c0d9e2b47688c1d0e5f6a7b8c9d0e1f2a3b4c5d6e7f8091a2b3c4d5e6f7"
_WEIGHTS = "9b2c4d6e8f0a1b3c5d7e9f1a2b4c6d8e0f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c"
_CONFIG_FILE = "1d4c7b0a3e6f9281b5d8c0e3f6a9b2c5d8e1f4a7b0c3d6e9f2a5b8c1d4e7f0a3"
_WEIGHTS_FILE = "2e5d8c1b4f7a0392c6e9d1f4a7b0c3d6e9f2a5b8c1d4e7f0a3b6c9d2e5f8a1b4"
_ROWS = "5c8f1e4b7a0d3692f5c8e1b4a7d0f3c6e9b2a5d8f1c4e7b0a3d6f9c2e5b8a1d4"
_KEY = "7d0e3c6b9a2f5e8d1c4b7a0f3e6d9c2b5a8f1e4d7c0b3a6f9e2d5c8b1a4f7e0d"
_BUNDLE = (
    '{"dsseEnvelope":{"payload":"eyJfdHlwZSI6Li4ufQ==","payloadType":"application/vnd.in-toto+json","signatures":'
    '[{"keyid":"","sig":"MEUCIQ=="}]},"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json",'
    f'"verificationMaterial":{{"publicKey":{{"hint":"{_KEY}"}},"tlogEntries":[]}}}}'
)
#: A real one over the statement below, by a key that was thrown away: what names another is refused.
_STATED_BY = "77a51a39e89f0ce32d8f5f8697b4a127b9a98a335c6ad437dce7d06d4620a765"
_STATED_BY_PEM = (
    "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEBSwtcRHFY8ZVbYz96nDO6I2Jp7Ol\naaL7s25+4L2aXRvruK"
    "4lr3NaWp1zZdOvRaKD8daQu3DtSOXq0q9TkvDoqQ==\n-----END PUBLIC KEY-----\n"
)
_STATED = (
    '{"dsseEnvelope":{"payload":"ewogICJfdHlwZSI6ICJodHRwczovL2luLXRvdG8uaW8vU3RhdGVtZW50L3YxIiwKICAic3ViamVjdCI6IF'
    "sKICAgIHsKICAgICAgIm5hbWUiOiAiYWxpYXMiLAogICAgICAiZGlnZXN0IjogewogICAgICAgICJzaGEyNTYiOiAiYzU5ZTE5NzYxYWU5ZDgz"
    "YWZhMzQ4YzJhZTFkYThlZGZhZDUzNDgxOWNjMWJlN2VlMzA4OTdmNDk3ODUxMTJkZCIKICAgICAgfQogICAgfQogIF0sCiAgInByZWRpY2F0ZV"
    "R5cGUiOiAiaHR0cHM6Ly9tb2RlbF9zaWduaW5nL3NpZ25hdHVyZS92MS4wIiwKICAicHJlZGljYXRlIjogewogICAgInNlcmlhbGl6YXRpb24i"
    "OiB7CiAgICAgICJtZXRob2QiOiAiZmlsZXMiLAogICAgICAiYWxsb3dfc3ltbGlua3MiOiBmYWxzZSwKICAgICAgImhhc2hfdHlwZSI6ICJzaG"
    "EyNTYiCiAgICB9LAogICAgInJlc291cmNlcyI6IFsKICAgICAgewogICAgICAgICJuYW1lIjogImFsaWFzLmpzb24iLAogICAgICAgICJkaWdl"
    "c3QiOiAiY2UzNDVmMWM5NzllNWMwYzdkMzM0NDRhYzUzNjhjZWIzNmY5OGJhODM3YzRjOGVlYWI2ZDI1NGE3OTljZTM0YSIsCiAgICAgICAgIm"
    'FsZ29yaXRobSI6ICJzaGEyNTYiCiAgICAgIH0KICAgIF0KICB9Cn0=","payloadType":"application/vnd.in-toto+json","signatur'
    'es":[{"keyid":"","sig":"MEQCIC5YbufoqiwxJXswAp1eyfeQa5eHRVBJma10GaZyxuklAiAXokM/8BgA0dejNgw692PClxHeET9IGADBc0'
    '5UlbQZ8A=="}]},"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"publicKey"'
    ':{"hint":"e908793f9510ac3dbdf4dc2ffc281873d29c54f627457344899c59d01986db06"},"tlogEntries":[]}}'
)
_UPLOAD = "8a1f0c2d4e6b8091a3c5d7e9f1b2c4d6"

_CONFIG_BLOB = {"sha256": _CONFIG_FILE, "size_bytes": 744}
_WEIGHTS_BLOB = {"sha256": _WEIGHTS_FILE, "size_bytes": 1_857_320}
_LORA = {"rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"]}
_PUBLICATION: dict[str, Any] = {
    "adapter": "team/code-review",
    "upload": _UPLOAD,
    "manifest": {
        "kind": "adapter",
        "base_fingerprint": _FINGERPRINT,
        "files": [
            {"path": "adapter_config.json", **_CONFIG_BLOB},
            {"path": "adapter_model.safetensors", **_WEIGHTS_BLOB},
        ],
    },
    "lora": _LORA,
    "method": "lora",
    "metrics": {"loss": 1.25},
    "tags": {"language": "python"},
    "description": "Reviews pull requests.",
    "unknown": ["dataset"],
}
_ALIAS = {"adapter": "team/code-review", "alias": "production"}
_MOVE = {"ref": "team/code-review@v3", "reason": "replaced by v4"}

#: The body of a request, by operation.
BODIES: dict[str, Any] = {
    "register_base": {
        "id": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "revision": "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "fingerprint": _FINGERPRINT,
        "weights_digest": _WEIGHTS,
        "architecture": "LlamaForCausalLM",
        "location": "hf://HuggingFaceTB/SmolLM2-135M-Instruct@12fd25f77366fa6b3b4b768ec3050bf629380bac",
        "config": {"model_type": "llama", "hidden_size": 576},
        "tensors": {"model.layers.0.self_attn.q_proj.weight": [576, 576]},
        "size_bytes": 269_060_552,
    },
    "fix_base": {"name": _FINGERPRINT[:12], "namespace": "team", "id": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "remove_base": {"name": "HuggingFaceTB/SmolLM2-135M-Instruct", "namespace": "team"},
    "begin_upload": {"blobs": [_CONFIG_BLOB, _WEIGHTS_BLOB]},
    "ask_parts": {"sha256": _WEIGHTS, "parts": [{"number": 1, "sha256": _ROWS}]},
    "publish_version": _PUBLICATION,
    "state_alias": {
        "statement": {
            **_ALIAS,
            "move": 41,
            "digest": _WEIGHTS,
            "at": "2026-01-31T12:00:00Z",
            "policies": [_ROWS],
        },
        "key_id": _STATED_BY,
        "public_key": _STATED_BY_PEM,
        "bundle": _STATED,
    },
    "sign_manifest": {"key_id": _KEY, "bundle": _BUNDLE},
    "record_served_probe": {
        "adapter": "team/code-review",
        "number": 7,
        "digest": _ROWS,
        "base": _ROWS,
        "probe": {
            "prompts_digest": _ROWS,
            "prompts": [
                {
                    "tokens": [504, 1892],
                    "by_base": {"tokens": [314, 28], "base": [-0.4, -0.9], "adapter": [-2.1, -0.7]},
                    "by_adapter": {"tokens": [471, 28], "base": [-3.2, -1.1], "adapter": [-0.1, -0.6]},
                }
            ],
        },
    },
    "copy_version": {"ref": "team/code-review@v3", "adapter": "other/code-review"},
    "annotate_version": {"ref": "team/code-review@v3", "tags": {"stage": "trial"}, "note": "Chosen by the reviewers."},
    "archive_version": _MOVE,
    "restore_version": _MOVE,
    "delete_version": _MOVE,
    "release_version": {"ref": f"team/code-review@sha256:{_ROWS[:12]}", "reason": "looked at by hand"},
    "move_alias": {**_ALIAS, "number": 3, "expect": 2, "reason": "beats v2 on heldout.jsonl"},
    "rollback_alias": {**_ALIAS, "expect": 3, "reason": "v3 repeats itself"},
    "remove_alias": _ALIAS,
    "check_promotion": {**_ALIAS, "number": 3},
    "give_approval": {**_ALIAS, "number": 3, "kind": "approve", "reason": "read its 20 worst answers"},
    "withdraw_approval": {"id": "9c1e7a30b2d4f658"},
    "record_probe": {
        "adapter": "team/code-review",
        "number": 3,
        "digest": _ROWS,
        "agrees": True,
        "difference": 0.0001,
        "tolerance": 0.002,
    },
    "protect_alias": {"scope": "team/*", "alias": "production"},
    "unprotect_alias": {"scope": "team/*", "alias": "production"},
    "set_policy": {
        "scope": "team/*",
        "policy": {
            "alias": "production",
            "alpha": 0.05,
            "require": [
                {
                    "data": _ROWS,
                    "min_rows": 100,
                    "metrics": {
                        "rouge_l": {"at_least": 0.3},
                        "loss": {"not_worse_than": 0.02, "against": ["incumbent"]},
                    },
                }
            ],
            "approvals": 2,
        },
        "expect": 0,
    },
    "remove_policy": {"scope": "team/*", "alias": "production"},
    "register_dataset": {
        "digest": _ROWS,
        "size_bytes": 48_213,
        "format": "jsonl",
        "rows": 400,
        "shape": "prompt-completion",
        "name": "reviews.jsonl",
        "upload": _UPLOAD,
    },
    "reach_rung": {"attempt": 1, "rung": 0, "step": 30, "loss": 1.75},
    "submit_sweep": {
        "request": {
            "training": {
                "adapter": "team/code-review",
                "base": {"id": "HuggingFaceTB/SmolLM2-135M-Instruct", "fingerprint": _FINGERPRINT},
                "data": _ROWS,
                "eval_data": _ROWS,
                "spec": {"method": "lora"},
            },
            "settings": {"rank": {"values": [4, 16]}, "lr": {"low": 1e-4, "high": 1e-3, "log": True, "count": 3}},
        }
    },
    "submit_job": {
        "request": {
            "kind": "training",
            "adapter": "team/code-review",
            "base": {"id": "HuggingFaceTB/SmolLM2-135M-Instruct", "fingerprint": _FINGERPRINT},
            "data": _ROWS,
            "spec": {"method": "qlora", "rank": 8, "epochs": 3.0},
        },
        "priority": 0,
    },
    "claim_job": {
        "worker": {
            "name": "gpu-node-7",
            "device": "cuda",
            "memory_bytes": 25_757_220_864,
            "free_memory_bytes": 24_696_061_952,
            "cached_bases": [_FINGERPRINT],
        }
    },
    "hold_job": {"attempt": 1, "events": []},
    "complete_job": {"attempt": 1, "version": {**_PUBLICATION, "method": "lora"}},
    "fail_job": {
        "attempt": 1,
        "reason": FailureReason.OOM.value,
        "message": "the GPU has too little memory; use a smaller batch",
    },
    "release_job": {"attempt": 1},
    "append_points": {
        "attempt": 1,
        "serial": 7,
        "after": 199,
        "points": [{"step": 200, "values": {"loss": 1.4, "lr": 0.0002, "grad_norm": 0.8, "eval_loss": 1.5}}],
    },
    "record_checkpoint": {
        "attempt": 1,
        "step": 200,
        "total": 1000,
        "upload": _UPLOAD,
        "manifest": {
            "kind": "checkpoint",
            "base_fingerprint": _FINGERPRINT,
            "files": [
                {"path": "adapter_config.json", **_CONFIG_BLOB},
                {"path": "adapter_model.safetensors", **_WEIGHTS_BLOB},
                {"path": "optimizer.safetensors", "sha256": _ROWS, "size_bytes": 3_714_640},
            ],
        },
        "report": {
            "lora": _LORA,
            "quantization": None,
            "rows": 1200,
            "supervised_tokens": 90_000,
            "training": {"lr": 0.0002},
            "metrics": {"loss": 1.4},
            "libraries": {"torch": "2.13.0"},
        },
    },
    "publish_checkpoint": {"adapter": "team/code-review-early", "description": "Before it overfits."},
    "greet": {
        "name": "gpu-1",
        "device": "cuda",
        "memory_bytes": 85_899_345_920,
        "free_memory_bytes": 85_000_000_000,
        "queues": ["gpu"],
    },
    "leave": {"worker": "gpu-1"},
    "create_token": {"name": "ci-review", "grants": [{"namespace": "team", "role": "writer"}], "days": 90},
    "revoke_namespace": {"namespace": "team"},
    "get_standing": {"sha256": _ROWS},
    "set_quota": {"max_adapters": 100, "max_bytes": 50_000_000_000, "max_jobs": 20, "max_record_bytes": 1_000_000_000},
    "set_retention": {"keep_last": 10, "keep_days": 90},
    "collect_garbage": {"dry_run": True, "grace_hours": 24},
}

#: A value of each parameter for which the view has none.
PARAMETERS: dict[str, Any] = {
    "name": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "digest": _ROWS,
    "upload": _UPLOAD,
    "job_id": "5f2c9a1b3d4e",
    "sweep_id": "3f1c2a9b7d20",
    "ident": "3f1c2a9b7d20",
    "job": "5f2c9a1b3d4e",
    "token_id": "9c1e7a30b2d4f658",
    "alias": "production",
    "state": "running",
    "queue": "gpu",
    "step": 200,
    "base": _FINGERPRINT,
    "actor": "ci-review",
    "action": "alias.*",
    "subject": "team/code-review",
    "namespace": "team",
    "prefix": "team/",
    "since": "2026-03-01T00:00:00Z",
    "until": "2026-06-01T00:00:00Z",
}
