#!/usr/bin/env python3
"""Train nibble's small byte-level example language models (JAX, CPU, float32).

Run by hand; no build and no test of the library calls it.  One run trains one model:

    python train.py --data DIR --out DIR --model large --minutes 70 --seed 1

and writes OUT/NAME.safetensors (FP16 weights, container "nibble.transformer.v1"),
OUT/golden_NAME.safetensors (token ids and reference logits, to verify other
implementations of the model) and OUT/NAME.ckpt.npz (state; a run that was interrupted
resumes from it when started again with the same --out).  Afterwards

    python train.py --data DIR --out DIR --model large --evaluate

computes the losses of the exported FP16 file and prints them as JSON.

The learning rate follows a cosine over the fraction of the time budget that is used up,
not over steps, so that a run always anneals, however busy the machine is.  The
consequence: a run is not bit-reproducible; the seed fixes initialisation and data order.
"""

import argparse
import hashlib
import json
import math
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors import safe_open
from safetensors.numpy import save_file

FORMAT = "nibble.transformer.v1"
VOCAB = 256
NORM_EPS = 1e-5
ROPE_THETA = 10000.0
MAX_SEQ_LEN = 512

# block_params is what one block must have: 10.5 d^2 + 7 d.  lr and batch (windows per step)
# are defaults that the command line can override.
MODELS = {
    "small": dict(n_layers=1, d_model=32, n_heads=4, n_kv_heads=1, block_params=10_976, lr=1e-2, batch=8),
    "medium": dict(n_layers=1, d_model=128, n_heads=4, n_kv_heads=1, block_params=172_928, lr=4e-3, batch=8),
    "large": dict(n_layers=1, d_model=512, n_heads=8, n_kv_heads=2, block_params=2_756_096, lr=2e-3, batch=4),
    "deep": dict(n_layers=4, d_model=256, n_heads=4, n_kv_heads=1, block_params=689_920, lr=2e-3, batch=4),
}

WIKI = "wikitext2_valid.tokens.txt"
BOOKS = ("war_and_peace.md", "moby_dick_pg2701.txt", "tinyshakespeare.txt")

GOLDEN_TEXT = (
    "The lighthouse keeper counted nine ships before the fog came in and hid the sea.",
    "In 1987 the museum opened a second hall , and about 4 @,@ 200 people visited it in May .",
    "int main() { return 0; } /* brackets, digits 0123456789, and a TAB:\t here */ \"end\"\n",
)


# ---------------------------------------------------------------------------- data

def load_corpora(data_dir):
    """Returns the byte arrays: wiki_train, books (a list), valid, heldout.

    The last 10 % of the wikitext bytes are held out (reported, never used for a choice),
    the 5 % before them are for validation, the rest is for training.
    """
    def read(name):
        with open(os.path.join(data_dir, name), "rb") as f:
            return f.read().replace(b"\r\n", b"\n")

    def strip_gutenberg(text):
        lines, begin, end = text.split(b"\n"), 0, None
        for i, line in enumerate(lines):
            if line.startswith(b"*** START OF"):
                begin = i + 1
            elif line.startswith(b"*** END OF"):
                end = i
                break
        return b"\n".join(lines[begin:end])

    wiki = np.frombuffer(read(WIKI), np.uint8)
    n = len(wiki)
    books = [np.frombuffer(strip_gutenberg(read(name)), np.uint8) for name in BOOKS]
    a, b = n * 85 // 100, n * 90 // 100
    return wiki[:a], books, wiki[a:b], wiki[b:]


class Windows:
    """Windows of `length` + 1 bytes without replacement: each epoch is a fresh random shift and order."""

    def __init__(self, texts, length, rng):
        self.texts, self.length, self.rng, self.queue = texts, length, rng, []

    def _refill(self):
        for t, text in enumerate(self.texts):
            shift = int(self.rng.integers(self.length))
            self.queue += [(t, s) for s in range(shift, len(text) - self.length, self.length)]
        self.rng.shuffle(self.queue)

    def next(self):
        if not self.queue:
            self._refill()
        t, s = self.queue.pop()
        return self.texts[t][s:s + self.length + 1]


# ---------------------------------------------------------------------------- model

def config(name):
    c = dict(MODELS[name])
    c["head_dim"] = c["d_model"] // c["n_heads"]
    c["d_ff"] = 4 * c["d_model"]
    return c


def block_shapes(c):
    d, q, kv = c["d_model"], c["n_heads"] * c["head_dim"], c["n_kv_heads"] * c["head_dim"]
    return {
        "attn_norm.weight": (d,),
        "attn.q.weight": (q, d),
        "attn.k.weight": (kv, d),
        "attn.v.weight": (kv, d),
        "attn.o.weight": (d, q),
        "mlp_norm.weight": (d,),
        "mlp.up.weight": (c["d_ff"], d),
        "mlp.up.bias": (c["d_ff"],),
        "mlp.down.weight": (d, c["d_ff"]),
        "mlp.down.bias": (d,),
    }


def init_params(c, seed):
    rng = np.random.default_rng(seed)
    d, params = c["d_model"], {}

    def normal(shape, std):
        return (rng.standard_normal(shape) * std).astype(np.float32)

    params["embed.weight"] = normal((VOCAB, d), 0.3)
    for i in range(c["n_layers"]):
        count = 0
        for name, shape in block_shapes(c).items():
            count += math.prod(shape)
            if name.endswith("norm.weight"):
                value = np.ones(shape, np.float32)
            elif name.endswith(".bias"):
                value = np.zeros(shape, np.float32)
            else:
                std = 1.0 / math.sqrt(shape[1])
                if name in ("attn.o.weight", "mlp.down.weight"):
                    std /= math.sqrt(2 * c["n_layers"])
                value = normal(shape, std)
            params[f"blocks.{i}.{name}"] = value
        assert count == c["block_params"] == (21 * d * d + 14 * d) // 2, (count, c["block_params"])
    params["final_norm.weight"] = np.ones((d,), np.float32)
    params["head.weight"] = normal((VOCAB, d), 0.2 / math.sqrt(d))
    return params


def forward(params, tokens, c):
    """Logits [B, T, 256] of tokens [B, T]; float32, JAX."""
    batch, seq = tokens.shape
    heads, kv, hd = c["n_heads"], c["n_kv_heads"], c["head_dim"]
    group = heads // kv
    p = params

    def rms(x, w):
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + NORM_EPS) * w

    freq = ROPE_THETA ** (-np.arange(0, hd, 2, dtype=np.float64) / hd)
    angle = np.outer(np.arange(seq), freq)
    cos = np.concatenate([np.cos(angle)] * 2, -1).astype(np.float32)[:, None, :]
    sin = np.concatenate([-np.sin(angle), np.sin(angle)], -1).astype(np.float32)[:, None, :]

    def rope(x):  # rotate-half pairing (i, i + hd/2)
        return x * cos + jnp.roll(x, hd // 2, -1) * sin

    # A product with one-hot rows: on CPU its gradient is faster than that of a gather.
    x = (jax.nn.one_hot(tokens.reshape(-1), VOCAB, dtype=jnp.float32) @ p["embed.weight"]).reshape(batch, seq, -1)
    # The queries of one KV head are stacked along time, so that attention is one product per (batch, KV head).
    mask = np.tile(np.tril(np.ones((seq, seq), bool)), (group, 1))
    for i in range(c["n_layers"]):
        b = f"blocks.{i}."
        h = rms(x, p[b + "attn_norm.weight"])
        q = rope((h @ p[b + "attn.q.weight"].T).reshape(batch, seq, heads, hd))
        k = rope((h @ p[b + "attn.k.weight"].T).reshape(batch, seq, kv, hd))
        v = (h @ p[b + "attn.v.weight"].T).reshape(batch, seq, kv, hd)
        q = q.reshape(batch, seq, kv, group, hd).transpose(0, 2, 3, 1, 4).reshape(batch, kv, group * seq, hd)
        k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
        s = jnp.where(mask, (q @ k) * (hd ** -0.5), -1e30)
        a = jax.nn.softmax(s, -1) @ v
        a = a.reshape(batch, kv, group, seq, hd).transpose(0, 3, 1, 2, 4).reshape(batch, seq, heads * hd)
        x = x + a @ p[b + "attn.o.weight"].T
        h = rms(x, p[b + "mlp_norm.weight"])
        u = jax.nn.gelu(h @ p[b + "mlp.up.weight"].T + p[b + "mlp.up.bias"], approximate=True)
        x = x + u @ p[b + "mlp.down.weight"].T + p[b + "mlp.down.bias"]
    return rms(x, p["final_norm.weight"]) @ p["head.weight"].T


def token_losses(params, windows, c):
    """Negative log-likelihood [B, T] in nats of windows[:, 1:] given windows[:, :-1]."""
    windows = windows.astype(jnp.int32)
    logits = forward(params, windows[:, :-1], c)
    picked = jnp.sum(logits * jax.nn.one_hot(windows[:, 1:], VOCAB, dtype=jnp.float32), -1)
    return jax.nn.logsumexp(logits, -1) - picked


def reference_logits(p, tokens, c):
    """The same model once more: one sequence, plain NumPy, float64."""
    seq, heads, kv, hd = len(tokens), c["n_heads"], c["n_kv_heads"], c["head_dim"]
    p = {k: np.asarray(v, np.float64) for k, v in p.items()}

    def rms(x, w):
        return x / np.sqrt(np.mean(x * x, -1, keepdims=True) + NORM_EPS) * w

    angle = np.arange(seq)[:, None] * ROPE_THETA ** (-2.0 * np.arange(hd // 2) / hd)

    def rope(x):
        lo, hi = x[:, :hd // 2], x[:, hd // 2:]
        return np.concatenate([lo * np.cos(angle) - hi * np.sin(angle), hi * np.cos(angle) + lo * np.sin(angle)], -1)

    x = p["embed.weight"][tokens]
    for i in range(c["n_layers"]):
        b = f"blocks.{i}."
        h = rms(x, p[b + "attn_norm.weight"])
        q, k, v = (h @ p[b + f"attn.{n}.weight"].T for n in "qkv")
        out = np.zeros((seq, heads * hd))
        for head in range(heads):
            mine = slice(head * hd, (head + 1) * hd)
            g = head // (heads // kv)
            shared = slice(g * hd, (g + 1) * hd)
            s = rope(q[:, mine]) @ rope(k[:, shared]).T / math.sqrt(hd)
            s = np.where(np.tril(np.ones((seq, seq), bool)), s, -np.inf)
            s = np.exp(s - s.max(-1, keepdims=True))
            out[:, mine] = s / s.sum(-1, keepdims=True) @ v[:, shared]
        x = x + out @ p[b + "attn.o.weight"].T
        h = rms(x, p[b + "mlp_norm.weight"])
        u = h @ p[b + "mlp.up.weight"].T + p[b + "mlp.up.bias"]
        u = 0.5 * u * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (u + 0.044715 * u ** 3)))
        x = x + u @ p[b + "mlp.down.weight"].T + p[b + "mlp.down.bias"]
    return rms(x, p["final_norm.weight"]) @ p["head.weight"].T


# ---------------------------------------------------------------------------- evaluation

def text_loss(loss_fn, params, text, length, stride, batch=8):
    """Mean nats per byte over `text`, every byte but the first predicted exactly once.

    Windows of `length` inputs begin every `stride` bytes; of each window only the predictions
    that no earlier window made are counted.  stride == length: windows that do not overlap.
    A last, shorter window is padded at its end, and the padding is not counted.
    """
    rows, spans, done = [], [], 0  # `done` targets (bytes 1..done) are accounted for
    start = 0
    while done < len(text) - 1:
        chunk = text[start:start + length + 1]
        end = start + len(chunk) - 1
        row = np.zeros(length + 1, np.uint8)
        row[:len(chunk)] = chunk
        rows.append(row)
        spans.append((done - start, end - start))
        done = end
        start += stride
    total = 0.0
    for i in range(0, len(rows), batch):
        part = rows[i:i + batch]
        block = np.stack(part + [np.zeros(length + 1, np.uint8)] * (batch - len(part)))
        nll = np.asarray(loss_fn(params, block), np.float64)
        total += sum(nll[j, lo:hi].sum() for j, (lo, hi) in enumerate(spans[i:i + len(part)]))
    return total / (len(text) - 1)


# ---------------------------------------------------------------------------- files

def save_atomically(path, write):
    write(path + ".tmp")
    os.chmod(path + ".tmp", 0o644)
    os.replace(path + ".tmp", path)


def export(params, c, name, out_dir):
    half = {k: np.asarray(v, np.float32).astype(np.float16) for k, v in params.items()}
    assert all(np.isfinite(v).all() for v in half.values())
    metadata = {
        "format": FORMAT, "n_layers": c["n_layers"], "d_model": c["d_model"], "n_heads": c["n_heads"],
        "n_kv_heads": c["n_kv_heads"], "head_dim": c["head_dim"], "d_ff": c["d_ff"], "vocab_size": VOCAB,
        "norm": "rms", "norm_eps": NORM_EPS, "rope_theta": ROPE_THETA, "rope_dims": c["head_dim"],
        "activation": "gelu_tanh", "gated": "false", "tied_head": "false", "parallel_residual": "false",
        "qk_norm": "false", "max_seq_len": MAX_SEQ_LEN,
    }
    metadata = {k: str(v) for k, v in metadata.items()}
    path = os.path.join(out_dir, name + ".safetensors")
    save_atomically(path, lambda f: save_file(half, f, metadata=metadata))
    tokens = np.stack([np.frombuffer(t.encode("ascii")[:64], np.uint8) for t in GOLDEN_TEXT]).astype(np.int32)
    logits = np.stack([reference_logits(half, t, c) for t in tokens])
    fast = np.asarray(forward({k: jnp.asarray(v, jnp.float32) for k, v in half.items()}, jnp.asarray(tokens), c))
    assert np.abs(fast - logits).max() < 1e-3, np.abs(fast - logits).max()
    golden = {"tokens": tokens, "logits": logits.astype(np.float32)}
    save_atomically(os.path.join(out_dir, f"golden_{name}.safetensors"), lambda f: save_file(golden, f))


def import_params(path):
    with safe_open(path, framework="numpy") as f:
        assert f.metadata()["format"] == FORMAT
        return {k: f.get_tensor(k).astype(np.float32) for k in f.keys()}


# ---------------------------------------------------------------------------- training

def train(args, c):
    os.makedirs(args.out, exist_ok=True)
    ckpt_path = os.path.join(args.out, args.model + ".ckpt.npz")
    lr_peak, batch, length = args.lr or c["lr"], args.batch or c["batch"], args.length

    params = init_params(c, args.seed)
    # Decay the matrices of the linear layers; not norms, biases or the embedding table.
    decayed = {k: v.ndim == 2 and k != "embed.weight" for k, v in params.items()}
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.scale_by_adam(b1=0.9, b2=args.beta2),
        optax.add_decayed_weights(args.weight_decay, mask=decayed),
    )
    params = {k: jnp.asarray(v) for k, v in params.items()}
    state = optimizer.init(params)
    step, tokens, elapsed = 0, 0, 0.0
    if os.path.exists(ckpt_path):
        with np.load(ckpt_path) as z:
            params = {k: jnp.asarray(z["param:" + k]) for k in params}
            leaves, tree = jax.tree.flatten(state)
            state = jax.tree.unflatten(tree, [jnp.asarray(z[f"state:{i}"]) for i in range(len(leaves))])
            step, tokens, elapsed = int(z["step"]), int(z["tokens"]), float(z["elapsed"])
        print(f"resumed at step {step}, {elapsed:.0f} s", flush=True)

    wiki, books, valid, _ = load_corpora(args.data)
    seeds = np.random.SeedSequence([args.seed, step]).spawn(3)
    mix = np.random.default_rng(seeds[0])
    wiki_windows = Windows([wiki], length, np.random.default_rng(seeds[1]))
    book_windows = Windows(books, length, np.random.default_rng(seeds[2]))

    @jax.jit
    def loss_fn(p, windows):
        return token_losses(p, windows, c)

    def update(p, s, windows, lr):
        loss, grads = jax.value_and_grad(lambda q: token_losses(q, windows, c).mean())(p)
        u, s = optimizer.update(grads, s, p)
        return {k: p[k] - lr * u[k] for k in p}, s, loss

    update = jax.jit(update, donate_argnums=(0, 1))

    def save():
        def write(path):
            with open(path, "wb") as f:
                np.savez(f, step=step, tokens=tokens, elapsed=elapsed,
                         **{"param:" + k: np.asarray(v) for k, v in params.items()},
                         **{f"state:{i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(state))})
        save_atomically(ckpt_path, write)
        export(params, c, args.model, args.out)

    budget = 60.0 * args.minutes
    last_save = last_log = elapsed
    running, since_log, log_step = 0.0, 0, step
    while elapsed < budget:
        tick = time.monotonic()
        progress = elapsed / budget
        lr = lr_peak * (0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * progress)))
        lr *= min(1.0, (step + 1) / args.warmup)
        windows = np.stack([(wiki_windows if mix.random() < args.wiki_fraction else book_windows).next()
                            for _ in range(batch)])
        params, state, loss = update(params, state, windows, np.float32(lr))
        running += float(loss)
        since_log += 1
        step += 1
        tokens += batch * length
        elapsed += time.monotonic() - tick  # time in which the process was stopped (SIGSTOP) counts
        if elapsed - last_log >= args.log_every:
            rate = (step - log_step) / (elapsed - last_log)
            print(f"step {step} tokens {tokens} elapsed {elapsed:.0f} s lr {lr:.2e} "
                  f"train {running / since_log:.4f} ({rate:.2f} steps/s)", flush=True)
            running, since_log, last_log, log_step = 0.0, 0, elapsed, step
        if elapsed - last_save >= args.save_every and elapsed < budget:
            tick = time.monotonic()
            save()
            print(f"step {step} valid(16 KiB) {text_loss(loss_fn, params, valid[:16384], length, length):.4f}", flush=True)
            elapsed += time.monotonic() - tick
            last_save = elapsed
    save()
    print(f"done: step {step} tokens {tokens} elapsed {elapsed:.0f} s "
          f"valid {text_loss(loss_fn, params, valid, length, length):.4f}", flush=True)


def evaluate(args, c):
    path = os.path.join(args.out, args.model + ".safetensors")
    params = import_params(path)
    counts = {"blocks": sum(v.size for k, v in params.items() if k.startswith("blocks.")),
              "embedding": params["embed.weight"].size, "final_norm": params["final_norm.weight"].size,
              "head": params["head.weight"].size}
    assert counts["blocks"] == c["n_layers"] * c["block_params"]
    params = {k: jnp.asarray(v) for k, v in params.items()}
    loss_fn = jax.jit(lambda p, w: token_losses(p, w, c))
    _, _, valid, heldout = load_corpora(args.data)
    n = args.length
    with open(path, "rb") as f:
        digest = hashlib.sha256(f.read()).hexdigest()
    result = {
        "model": args.model, "sha256": digest, "parameters": counts,
        "valid_bytes": len(valid), "heldout_bytes": len(heldout),
        "valid": round(text_loss(loss_fn, params, valid, n, n), 4),
        "heldout": round(text_loss(loss_fn, params, heldout, n, n), 4),
    }
    if args.overlap:
        result["heldout_half_overlap"] = round(text_loss(loss_fn, params, heldout, n, n // 2), 4)
    print(json.dumps(result, indent=1))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--data", required=True, help="folder with the text files " + ", ".join((WIKI,) + BOOKS))
    ap.add_argument("--out", required=True, help="folder for the exported model and the checkpoint")
    ap.add_argument("--model", required=True, choices=sorted(MODELS))
    ap.add_argument("--minutes", type=float, default=10.0, help="time budget; the schedule anneals to its end")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--lr", type=float, help="peak learning rate (default: by model)")
    ap.add_argument("--batch", type=int, help="windows per step (default: by model)")
    ap.add_argument("--length", type=int, default=256, help="inputs per window")
    ap.add_argument("--warmup", type=int, default=100, help="steps of linear warm-up")
    ap.add_argument("--wiki-fraction", type=float, default=0.6, help="share of windows from wikitext")
    ap.add_argument("--weight-decay", type=float, default=0.1)
    ap.add_argument("--beta2", type=float, default=0.98)
    ap.add_argument("--log-every", type=float, default=20.0, help="seconds")
    ap.add_argument("--save-every", type=float, default=240.0, help="seconds between checkpoints")
    ap.add_argument("--evaluate", action="store_true", help="evaluate the exported file instead of training")
    ap.add_argument("--overlap", action="store_true",
                    help="with --evaluate: also the held-out loss over windows that overlap by half")
    args = ap.parse_args()
    assert args.length <= MAX_SEQ_LEN
    c = config(args.model)
    (evaluate if args.evaluate else train)(args, c)


if __name__ == "__main__":
    main()
