# SPDX-License-Identifier: Apache-2.0
"""What a person typed: options in either spelling, a setting's value behind a space, and one line
for a word that nobody knows, with the name that it has here."""

import argparse
from collections.abc import Iterable, Sequence
from typing import NoReturn

from itx.config import fields_by_name
from itx.errors import UserError, did_you_mean, nearest

# What a setting is called elsewhere (transformers, trl, torchtune, axolotl, LLaMA-Factory, nanoGPT)
PEERS = {
    "data.chat_template": "template jinja_template",
    "data.global_batch": "batch_size bs train_batch_size per_device_train_batch_size "
    "micro_batch_size total_batch_size per_device_batch_size",
    "data.mixture": "data dataset datasets dataset_name dataset_path train_data train_file",
    "data.root": "data_dir data_path dataset_dir",
    "data.sequence_length": "max_seq_length max_seq_len seq_len max_length block_size cutoff_len "
    "context_length max_source_length model_max_length",
    "data.target_length": "max_target_length",
    "data.vocab": "tokenizer tokenizer_name tokenizer_path",
    "data.workers": "num_proc num_workers dataset_num_proc preprocessing_num_workers",
    "eval.batch_size": "eval_batch_size per_device_eval_batch_size",
    "eval.max_examples": "max_eval_samples eval_iters limit",
    "mesh.data": "num_devices devices gpus num_gpus dp",
    "mesh.tensor": "tp tensor_parallel tensor_parallel_size",
    "model.dropout": "dropout resid_dropout",
    "model.dtype": "bf16 fp16 precision mixed_precision torch_dtype",
    "model.pretrained": "model base_model model_id model_name model_name_or_path model_path "
    "init_from checkpoint ckpt",
    "model.remat": "gradient_checkpointing activation_checkpointing checkpointing",
    "optim.clip_norm": "max_grad_norm grad_clip clip gradient_clipping clip_grad",
    "optim.final_share": "min_lr min_lr_ratio",
    "optim.freeze": "freeze_layers frozen",
    "optim.learning_rate": "lr peak_lr",
    "optim.name": "optimizer",
    "optim.schedule": "lr_scheduler lr_scheduler_type scheduler lr_schedule",
    "optim.warmup_steps": "warmup warmup_iters num_warmup_steps warmup_ratio",
    "optim.weight_decay": "wd",
    "peft.alpha": "lora_alpha",
    "peft.dora": "use_dora",
    "peft.dropout": "lora_dropout",
    "peft.length": "num_virtual_tokens prefix_length prompt_length",
    "peft.method": "lora use_lora use_peft finetuning_type peft_method peft_type",
    "peft.rank": "lora_r lora_rank r",
    "peft.rslora": "use_rslora",
    "peft.targets": "lora_target lora_targets target_modules lora_target_modules",
    "train.checkpoint_every": "save_steps save_every save_interval checkpoint_interval",
    "train.keep_checkpoints": "save_total_limit max_checkpoints",
    "train.label_smoothing": "label_smoothing_factor",
    "train.log_every": "logging_steps log_interval log_every_n_steps log_freq",
    "train.microbatches": "gradient_accumulation_steps grad_accum accumulate_grad_batches ga",
    "train.steps": "epochs num_epochs num_train_epochs max_steps max_iters num_steps train_steps "
    "total_steps iters",
    "train.tensorboard": "use_tensorboard",
    "train.writers": "report_to wandb trackio use_wandb log_with logger wandb_project",
}
# Names that mean several settings at once, one of them first
SEVERAL = {"seed": ("train.seed", "data.seed", "data.suite_seed")}
NOTES = {
    "epochs": "a run is counted in steps; `itx data audit` says how many passes they make",
    "num_epochs": "a run is counted in steps; `itx data audit` says how many passes they make",
    "num_train_epochs": "a run is counted in steps; `itx data audit` says how many passes they "
    "make",
    "bf16": "--model.dtype=bfloat16",
    "lora": "--peft.method=lora",
    "use_lora": "--peft.method=lora",
    "gradient_checkpointing": "--model.remat=full",
    "wandb": "--train.writers=wandb",
    "trackio": "--train.writers=trackio",
    "warmup_ratio": "it counts steps",
    "seed": "train.seed draws weights and dropout, data.seed the order of examples, "
    "data.suite_seed procedural tasks",
}
# What has no setting because it is so anyway, or is told in another way
ANYWAY = {
    "resume": "the same command goes on with its run by itself",
    "resume_from_checkpoint": "the same command goes on with its run by itself",
    "packing": "rows are always packed",
    "streaming": "data are read as they are needed, from the cache",
    "config": "the recipe is given by itself: itx train configs/quickstart.py",
}
# Options of commands (not settings), by what they are called elsewhere
OPTIONS = {
    "--run_dir": "output_dir out_dir out output save_dir workdir logdir",
    "--quick": "debug smoke fast_dev_run",
    "--dry-run": "dry dryrun",
    "--max_new_tokens": "max_tokens max_length num_tokens max_gen_len",
    "--beams": "num_beams beam_size",
    "--prompt": "input text message question query",
    "--prompts": "input_file prompt_file prompts_file",
    "--shots": "num_fewshot fewshot n_shot num_shots few_shot",
    "--max_examples": "limit max_samples",
    "--tasks": "task dataset benchmark",
    "--adapter": "lora peft lora_path adapter_path",
    "--step": "checkpoint ckpt checkpoint_step",
    "--root": "data_dir data_root",
    "--json": "output out output_file",
    "--restarts": "max_restarts retries",
}
MIN_LIKENESS = 0.75  # of a word to the leaf of a setting's name, to be taken for it
GIVEN_ALONE = "model model_name_or_path model_path model_id run run_dir pretrained".split()


class Parser(argparse.ArgumentParser):
    """argparse's parser, for which `-` and `_` in an option are one, and whose mistakes are
    UserErrors of one line."""

    def add_argument(self, *names, **settings) -> argparse.Action:
        """Also remembers the names, so that a near one can be told."""
        self.options = [*getattr(self, "options", ()), *(n for n in names if n.startswith("--"))]
        return super().add_argument(*names, **settings)

    def add_subparsers(self, **settings):
        """Also remembers the commands."""
        self.commands = super().add_subparsers(**settings)
        return self.commands

    def parse_known_args(self, args: Sequence[str] | None = None, namespace=None):
        words = [self._spelled(word) for word in args or ()]
        if hasattr(self, "commands"):
            self._check_command(next(iter(words), ""))
        return super().parse_known_args(words, namespace)

    def _check_command(self, word: str) -> None:
        """UserError where the first word is none of a group's commands."""
        choices, group = self.commands.choices, self.prog.removeprefix("itx").lstrip()
        if not word:
            raise UserError(f"{self.prog} needs a command: {', '.join(choices)}")
        if word.startswith("-"):
            if word.partition("=")[0] not in (*self.options, "-h"):
                raise UserError(f"unknown option {word!r}" + did_you_mean(word, self.options))
        elif word not in choices:
            told = f"no command {f'{group} {word}'.lstrip()!r}"
            raise UserError(told + did_you_mean(word, choices))

    def _spelled(self, word: str) -> str:
        """An option as it is written here: `--run-dir=x` as `--run_dir=x`."""
        name, equals, value = word.partition("=")
        if not name.startswith("--") or name in self.options:
            return word
        same = (known for known in self.options if _plain(known) == _plain(name))
        return next(same, name) + equals + value

    def error(self, message: str) -> NoReturn:
        command = self.prog.removeprefix("itx ")
        raise UserError(f"{command}: {message} ({self.prog} --help says what it takes)")


def _plain(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


def joined(words: Iterable[str]) -> list[str]:
    """The words with each setting in one: `--train.log-every 5` is `--train.log_every=5`."""
    fields, left, out = fields_by_name(), list(words), []
    while left:
        word = left.pop(0)
        key, equals, value = word.partition("=")
        field = fields.get(_plain(key)) if key.startswith("--") else None
        if field is not None:
            if not equals and left and _may_be_value(field.type, left[0]):
                equals, value = "=", left.pop(0)
            word = f"--{_plain(key)}{equals}{value}"
        out.append(word)
    return out


def _may_be_value(kind: type, word: str) -> bool:
    """Whether a word can be the value of the setting before it: no option, and true or false for a
    setting that is one of the two."""
    if kind is bool:
        return word.casefold() in ("true", "false", "0", "1")
    return not word.startswith("--")


def refusal(word: str, args: argparse.Namespace) -> str:
    """One line for a word that a command does not know, with the name that it has here.

    Args:
        args: what the command was given besides; its parser is in it.
    """
    command, options = args.parser.prog, args.parser.options
    takes_settings = hasattr(args, "quick")
    what = "option" if word.startswith("--") else "argument"
    told = f"unknown {what} {word!r}"
    if what == "argument":
        return f"{told} ({command} --help lists what there is)"
    typed = word.partition("=")[0]
    name = _plain(typed).casefold()
    if takes_settings and name in ANYWAY:
        return f"{told}: {ANYWAY[name]}"
    if here := next((o for o in options if name in OPTIONS.get(o, "").split()), ""):
        return f"{told}: here it is {here}"
    if name in GIVEN_ALONE and hasattr(args, "run"):
        return f"{told}: the run is given by itself, as in {command} runs/quickstart"
    if takes_settings and (settings := setting_names(name)):
        names = " or ".join(f"--{n}" for n in settings)
        return f"{told}: here it is {names}" + (f" ({NOTES[name]})" if name in NOTES else "")
    settings = [f"--{n}" for n in fields_by_name()] if takes_settings else []
    if takes_settings and "." in typed:
        return told + did_you_mean(typed, settings)
    leaves = dict.fromkeys(s.partition(".")[2] for s in settings)
    if meant := nearest(name, leaves, 1, MIN_LIKENESS):
        settings = [f"--{n}" for n in setting_names(meant[0])]
        return told + did_you_mean(settings[0], settings)
    return told + did_you_mean(typed, [*options, *([] if nearest(typed, options) else settings)])


def setting_names(name: str) -> list[str]:
    """The settings that a bare name means: what it is called elsewhere, or the leaf of a dotted
    name. `lr` -> ["optim.learning_rate"]."""
    if name in SEVERAL:
        return list(SEVERAL[name])
    leaves = [n for n in fields_by_name() if n.partition(".")[2] == name]
    theirs = [ours for ours, names in PEERS.items() if name in names.split()]
    return theirs or leaves
