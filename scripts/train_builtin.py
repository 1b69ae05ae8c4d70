"""Train the language model that ships with the package, from nothing, deterministically.

    python scripts/train_builtin.py --books BOOKS_DIR --out work/builtin
    python scripts/train_builtin.py --books BOOKS_DIR --out work/builtin   # goes on after a kill

Three sources are mixed: public-domain books, the documentation that comes with Python, and generated
stories. A byte-level BPE of 4,096 tokens is trained on the same mixture first. Of the first two
sources every 20th document is held out; held-out stories come from another seed. The result is an
ordinary `transformers` directory, OUT/model; `scripts/builtin_card.py` measures it.
"""

import argparse
import json
import os
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from sparsescope.artifact import write_json, write_tensors
from sparsescope.text import stories
from sparsescope.text.docs import python_documents
from sparsescope.text.lexicon import GIVING_NAMES, OTHER_NAMES

END = "<|endoftext|>"
VOCABULARY = 4096
CONTEXT = 256
BATCH = 32
SHARES = {"books": 0.50, "docs": 0.15, "stories": 0.35}
HELD_OUT_EVERY = 20
# The learning rate falls, and rises once more when sentences of giving get many more surface forms:
# with the first 504 forms alone the model identified indirect objects in new forms less and less.
SECOND = 2400
KNOTS = ((0, 1.0), (1200, 1 - 0.98 / 3), (SECOND, 0.34 / 3), (SECOND + 20, 0.4), (3000, 0.02))
FIRST_FORMS = {"openings": 28, "clauses": 18}
N_STORIES = (93_836, 16_000)  # in each part, of about 110 tokens: more than are read once
STORY_SEED, HELD_OUT_STORY_SEED = 1, 2  # seed 0 is what users analyse
PIECE = 8_000  # characters of a book in one document


def source_texts(books: Path, held_out: bool, n_stories: int, **forms: int) -> dict[str, list[str]]:
    """Documents of every source, trained or held out. Stories are independent draws of the grammar."""
    pieces = [piece for file in sorted(books.glob("*.txt")) for piece in cut_book(file.read_text())]
    python = [document.text for document in python_documents()]
    tales = islice(stories(HELD_OUT_STORY_SEED if held_out else STORY_SEED, **forms), n_stories)
    return {
        "books": [text for i, text in enumerate(pieces) if (i % HELD_OUT_EVERY == 0) == held_out],
        "docs": [text for i, text in enumerate(python) if (i % HELD_OUT_EVERY == 0) == held_out],
        "stories": [tale.text for tale in tales],
    }


def cut_book(text: str) -> list[str]:
    """Pieces of about `PIECE` characters that end with a paragraph."""
    pieces, size = [[]], 0
    for paragraph in text.split("\n\n"):
        if size > PIECE:
            pieces.append([])
            size = 0
        pieces[-1].append(" ".join(paragraph.split()))
        size += len(paragraph)
    return ["\n\n".join(piece) for piece in pieces]


def train_tokenizer(texts: dict[str, list[str]]) -> PreTrainedTokenizerFast:
    """Byte-level BPE; every person's name is one token, with and without a space before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    names = [f" {name} {name}, {name}. {name}'s\n{name}" for name in (*GIVING_NAMES, *OTHER_NAMES)] * 200
    sample = [*texts["books"], *texts["docs"], *texts["stories"][:4000], *names]
    tokenizer.train_from_iterator(sample, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=CONTEXT)
    for name in (*GIVING_NAMES, *OTHER_NAMES):
        if len(fast(f" {name}").input_ids) != 1:
            raise SystemExit(f"{name} is not one token: give it more weight in the tokenizer's sample")
    return fast


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """All documents end to end, each after an end-of-text token."""
    end = tokenizer.convert_tokens_to_ids(END)
    ids = tokenizer(texts, add_special_tokens=False, verbose=False).input_ids
    return np.concatenate([np.array([end, *document], dtype=np.uint16) for document in ids])


def batch(streams: dict[str, np.ndarray], step: int, seed: int) -> torch.Tensor:
    """The contexts of one step: they depend on (seed, step) alone."""
    chance = np.random.default_rng((seed, step))
    names = chance.choice(list(SHARES), size=BATCH, p=list(SHARES.values()))
    starts = [chance.integers(len(streams[name]) - CONTEXT - 1) for name in names]
    rows = [streams[name][start : start + CONTEXT + 1] for name, start in zip(names, starts, strict=True)]
    return torch.from_numpy(np.stack(rows).astype(np.int64))


def build(layers: int, width: int, heads: int) -> GPTNeoXForCausalLM:
    config = GPTNeoXConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        rotary_pct=0.5,
        max_position_embeddings=CONTEXT,
        use_parallel_residual=True,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPTNeoXForCausalLM(config)


def optimisers(model: torch.nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, AdamW for embeddings, norms and biases."""
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
    rest = [p for name, p in model.named_parameters() if not (p.ndim == 2 and ".layers." in name)]
    return [
        torch.optim.Muon(inside, lr=rate, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def schedule(step: int) -> float:
    """The share of the full learning rate: 100 steps of warm-up, then straight lines between `KNOTS`."""
    return min(1.0, (step + 1) / 100) * float(np.interp(step, *zip(*KNOTS, strict=True)))


def train(args: argparse.Namespace) -> None:
    out = Path(args.out)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    texts = source_texts(Path(args.books), held_out=False, n_stories=N_STORIES[0], **FIRST_FORMS)
    folder = out / "model"
    if (folder / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    else:
        tokenizer = train_tokenizer(texts)
        tokenizer.save_pretrained(folder)
    streams = {name: encode(tokenizer, documents) for name, documents in texts.items()}
    more = [tale.text for tale in islice(stories(STORY_SEED), N_STORIES[1])]
    later = {**streams, "stories": encode(tokenizer, more)}
    print({name: len(stream) for name, stream in streams.items()}, flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build(args.layers, args.width, args.heads).to(device)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters on {device}", flush=True)
    optims = optimisers(model, args.rate)
    step = resume(out, model, optims)
    began, losses = time.time(), []
    first = step
    while step < args.steps:
        for optimiser in optims:
            for group in optimiser.param_groups:
                group["lr"] = args.rate * schedule(step)
        rows = batch(streams if step < SECOND else later, step, args.seed)
        losses.append(train_step(model, optims, rows.to(device)))
        step += 1
        if step % 100 == 0:
            rate = (step - first) * BATCH * CONTEXT / (time.time() - began)
            line = {"step": step, "loss": round(sum(losses) / len(losses), 4), "tokens_per_second": round(rate)}
            losses = []
            print(json.dumps(line), flush=True)
        if step % args.save_every == 0 and step < args.steps:
            save_checkpoint(out, model, optims, step)
    model.half().save_pretrained(folder)
    write_json(out / "training.json", {**vars(args), "tokens": step * BATCH * CONTEXT, "shares": SHARES})


def train_step(model: GPTNeoXForCausalLM, optims: list[torch.optim.Optimizer], rows: torch.Tensor) -> float:
    with torch.autocast("cuda", torch.bfloat16, enabled=rows.is_cuda):
        logits = model(rows[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimiser in optims:
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return loss.item()


def save_checkpoint(out: Path, model: GPTNeoXForCausalLM, optims: list[torch.optim.Optimizer], step: int) -> None:
    """Everything that the next step depends on, in one atomic file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, optimiser in enumerate(optims):
        for index, state in optimiser.state_dict()["state"].items():
            tensors.update({f"optimiser.{number}.{index}.{name}": value for name, value in state.items()})
    write_tensors(out / "checkpoint.safetensors", {**tensors, "step": torch.tensor(step)})


def resume(out: Path, model: GPTNeoXForCausalLM, optims: list[torch.optim.Optimizer]) -> int:
    """Take up the checkpoint, if there is one. Returns the number of finished steps."""
    path = out / "checkpoint.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
    for number, optimiser in enumerate(optims):
        full = optimiser.state_dict()
        for name, tensor in tensors.items():
            if name.startswith(f"optimiser.{number}."):
                _, _, index, key = name.split(".", 3)
                full["state"].setdefault(int(index), {})[key] = tensor
        optimiser.load_state_dict(full)
    return int(tensors["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--books", required=True, help="directory of .txt files")
    parser.add_argument("--out", required=True)
    parser.add_argument("--steps", type=int, default=KNOTS[-1][0], help="fewer, for a trial")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    train(parser.parse_args())


if __name__ == "__main__":
    main()
