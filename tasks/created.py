# SPDX-License-Identifier: Apache-2.0
"""What `itx create` made under `data.root`: the family `created.*`, a task for each version,
`created.NAME.v1`. Its rows are checked against the version's manifest before they are listed.

Rows that were made of one row fall into the same split, so that no row is scored whose twin was
trained on. A version is of the cluster of what it was made of, and is held out with it."""

from pathlib import Path

from itx.create import lineage
from itx.tasks.registry import family, make_task
from itx.tasks.spec import TaskSpec, jsonl
from tasks.files import REQUEST_HELDOUT, REQUEST_TEMPLATES, request_fields


def created_fields(example: dict) -> dict:
    """{instruction, input, output} of a row; its lineage stays in the file."""
    return request_fields({k: example[k] for k in ("instruction", "input", "output")})


def derived_fields(example: dict) -> dict:
    """The same of a row that was made of another one, with the id of that."""
    return {**created_fields(example), "parent": example["lineage"]["parents"][0]}


def parent(values: dict) -> str:
    return values["parent"]


def members(root: str) -> list[TaskSpec]:
    """Every version there is."""
    out = []
    for place in sorted((Path(root) / lineage.FOLDER).glob("*")):
        for version in lineage.versions(place).values():
            lineage.check(version)
            manifest = lineage.read_manifest(version)
            file = {"train": str((version / lineage.KEPT).relative_to(root))}
            by_parent = manifest.get("split") == "parent"
            out.append(
                make_task(
                    manifest["task"],
                    version=1,
                    cluster=manifest.get("cluster", lineage.CLUSTER),
                    origin=tuple(manifest["origin"]),
                    source=jsonl(file, split_key=parent if by_parent else None),
                    fields=derived_fields if by_parent else created_fields,
                    content=("request",),
                    metrics=("rouge_l", "token_f1"),
                    templates=REQUEST_TEMPLATES,
                    heldout_templates=REQUEST_HELDOUT,
                    tags={"licence": manifest["licence"], "inputs": manifest["task"]},
                    module=__name__,
                )
            )
    return out


family("created", members)
