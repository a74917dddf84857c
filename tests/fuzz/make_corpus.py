#!/usr/bin/env python3
"""Writes the inputs that each fuzz target begins with, from the repository's files, into FOLDER/<target>/.

    tests/fuzz/make_corpus.py FOLDER

Real heads of weight files keep their names and dtypes, but every tensor shrinks to a few elements: libFuzzer works with
small inputs.
"""

import json
import pathlib
import re
import struct
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER = pathlib.Path(sys.argv[1])
MINI = ROOT / "models/onggi-mini"
GOLDEN = ROOT / "tests/golden"


def write(target, name, *pieces):
    path = FOLDER / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(p.encode() if isinstance(p, str) else p for p in pieces))


def strings_in_tests(pattern):
    """The raw strings R"(...)" of matching tests, with their file's name."""
    for source in sorted(ROOT.glob(pattern)):
        for i, text in enumerate(re.findall(r'R"\((.*?)\)"', source.read_text(), re.S)):
            yield f"{source.stem}_{i}", text


def safetensors():
    files = [*MINI.glob("*.safetensors"), *GOLDEN.glob("*.safetensors")]
    for file in files:
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        offset = 0
        for name, tensor in header.items():
            if name == "__metadata__":
                continue
            begin, end = tensor["data_offsets"]
            count = 1
            for size in tensor["shape"]:
                count *= size
            tensor["shape"] = [1] * len(tensor["shape"])
            width = (end - begin) // max(count, 1)
            tensor["data_offsets"] = [offset, offset + width]
            offset += width
        text = json.dumps(header).encode()
        for kept in (len(header), 3):  # libFuzzer finds more in small inputs
            some = dict(list(header.items())[:kept])
            text = json.dumps(some).encode()
            data = max((t["data_offsets"][1] for n, t in some.items() if n != "__metadata__"), default=0)
            write("safetensors", f"{file.stem}_{kept}", struct.pack("<Q", len(text)), text, bytes(data))


def gguf():
    def string(text):
        return struct.pack("<Q", len(text.encode())) + text.encode()

    scalars = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i"),
               "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d")}

    def entry(key, kind, value):
        if kind == "string":
            return string(key) + struct.pack("<I", 8) + string(value)
        if kind.endswith("[]"):
            inner = kind[:-2]
            code, form = (8, None) if inner == "string" else scalars[inner]
            items = b"".join(string(v) if inner == "string" else struct.pack(form, v) for v in value)
            return string(key) + struct.pack("<IIQ", 9, code, len(value)) + items
        code, form = scalars[kind]
        return string(key) + struct.pack("<I", code) + struct.pack(form, value)

    config = json.loads((MINI / "config.json").read_text())
    tokens = ["<unk>", "a", "b", "ab", "<|im_end|>"]
    metadata = [
        entry("general.architecture", "string", "qwen3"), entry("general.alignment", "u32", 32),
        entry("qwen3.block_count", "u32", config["num_hidden_layers"]),
        entry("qwen3.context_length", "u32", config["max_position_embeddings"]),
        entry("qwen3.embedding_length", "u32", config["hidden_size"]),
        entry("qwen3.feed_forward_length", "u32", config["intermediate_size"]),
        entry("qwen3.attention.head_count", "u32", config["num_attention_heads"]),
        entry("qwen3.attention.head_count_kv", "u32", config["num_key_value_heads"]),
        entry("qwen3.attention.key_length", "u32", config["head_dim"]),
        entry("qwen3.attention.value_length", "u32", config["head_dim"]),
        entry("qwen3.attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]),
        entry("qwen3.rope.freq_base", "f32", 1e6), entry("tokenizer.ggml.model", "string", "gpt2"),
        entry("tokenizer.ggml.pre", "string", "qwen2"), entry("tokenizer.ggml.tokens", "string[]", tokens),
        entry("tokenizer.ggml.token_type", "i32[]", [1, 1, 1, 1, 3]), entry("tokenizer.ggml.merges", "string[]", ["a b"]),
        entry("tokenizer.ggml.eos_token_id", "u32", 4), entry("tokenizer.ggml.add_bos_token", "bool", False),
    ]
    every = [entry(kind, kind, 1) for kind in scalars] + [entry(kind + "[]", kind + "[]", [1, 0]) for kind in scalars]
    # name, sizes, ggml type, bytes: f32, bf16, q4_K, q6_K, q8_0, q4_0
    tensors = [("output_norm.weight", [4], 0, 16), ("token_embd.weight", [4, 5], 30, 40), ("blk.0.attn_q.weight", [256, 2], 12, 288),
               ("blk.0.attn_v.weight", [256, 1], 14, 210), ("blk.0.ffn_up.weight", [32, 1], 8, 34), ("blk.0.ffn_down.weight", [32, 1], 2, 18)]

    def file(entries, chosen, version):
        head = b"GGUF" + struct.pack("<IQQ", version, len(chosen), len(entries)) + b"".join(entries)
        offset = 0
        for name, sizes, kind, size in chosen:
            head += string(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
            head += struct.pack("<IQ", kind, offset)
            offset += -(-size // 32) * 32
        return head + bytes(-len(head) % 32) + bytes(offset)

    write("gguf", "model", file(metadata, tensors, 3))
    write("gguf", "kinds", file(every, tensors[:1], 2))
    for i, tensor in enumerate(tensors):
        write("gguf", f"tensor_{i}", file(metadata[:1], [tensor], 3))


def config():
    for file in [*MINI.glob("*config.json"), MINI / "model.safetensors.index.json"]:
        write("config", file.name, file.read_bytes())
    for name, text in [*strings_in_tests("tests/model/config_test.cc"), *strings_in_tests("tests/formats/adapter_test.cc")]:
        write("config", name, text)
    write("config", "adapter_config.json", json.dumps({
        "peft_type": "LORA", "r": 16, "lora_alpha": 16, "lora_dropout": 0.1, "bias": "none", "use_rslora": True,
        "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "onggi-mini", "task_type": "CAUSAL_LM"}))


def tokenizer():
    for file in [MINI / "tokenizer.json", *ROOT.glob("build/npm/qwen3/tokenizer.json")]:  # tests/tokenizer/fetch_qwen3.sh
        document = json.loads(file.read_text())
        model = document["model"]
        # The whole vocabularies are large: one of bytes and four merges.
        letters = {token: i for i, token in enumerate(t for t in model["vocab"] if len(t) == 1)}
        merges = [m for m in model["merges"] if all(len(half) == 1 for half in (m.split(" ") if isinstance(m, str) else m))][:4]
        for merge in merges:
            letters.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), len(letters))
        model["vocab"], model["merges"] = letters, merges
        for i, added in enumerate(document.get("added_tokens", [])):
            added["id"] = len(letters) + i
        write("tokenizer", f"{file.parent.name}", json.dumps(document, ensure_ascii=False))
    for name, text in strings_in_tests("tests/tokenizer/tokenizer_json_test.cc"):
        write("tokenizer", name, text)


def jinja():
    write("jinja", "onggi-mini", (MINI / "chat_template.jinja").read_bytes())
    for i, case in enumerate(json.loads((GOLDEN / "jinja.json").read_text())["cases"]):
        write("jinja", f"golden_{i}", case["template"])
    for file in ROOT.glob("build/npm/qwen3/tokenizer_config.json"):  # tests/tokenizer/fetch_qwen3.sh
        write("jinja", "qwen3", json.loads(file.read_text())["chat_template"])


def http_body():
    # The first byte chooses the endpoint.
    endpoints = {"chat": (0, 1, 3), "openai": (1, 2), "ollama": (3, 4), "answer_parser": (5,), "anthropic": (6,),
                 "messages": (0, 1), "tools": (0, 1, 6), "fields": (0, 1)}
    for name, text in strings_in_tests("tests/serve/*_test.cc"):
        for prefix, numbers in endpoints.items():
            if name.startswith(prefix):
                for number in numbers:
                    whole = text if text.lstrip().startswith("{") or number == 5 else \
                        '{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]' + text + "}"
                    write("http_body", f"{name}_{number}", bytes([number]), whole)
    for number in range(7):
        write("http_body", f"plain_{number}", bytes([number]), json.dumps({
            "model": "m", "prompt": "hi", "max_tokens": 9, "stream": True, "stop": ["a"], "temperature": 0.5,
            "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            "response_format": {"type": "json_object"}, "format": "json", "options": {"num_predict": 3, "top_k": 5}}))


def dataset():
    # The first byte: the format (JSON Lines, JSON, CSV), think, system prompt.
    for file in ROOT.glob("data/*.jsonl"):
        lines = file.read_text().splitlines()
        write("dataset", f"lines_{file.stem}", bytes([0]), "\n".join(lines))
        write("dataset", f"array_{file.stem}", bytes([1]), "[" + ",".join(lines) + "]")
    for name, text in strings_in_tests("tests/data/dataset_test.cc"):
        for number in range(3):
            write("dataset", f"{name}_{number}", bytes([number | 12]), text)
    write("dataset", "csv", bytes([2]), '\ufeffquestion,answer,style\n"a ""b""\nc",d,\nq,a,s\n')


def schema():
    # The schema, a zero, and a text that may follow it.
    for name, text in strings_in_tests("tests/infer/json_constraint_test.cc"):
        write("schema", name, text, b"\0", '{"a": 1}')
    write("schema", "object", json.dumps({
        "type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 9},
                                         "kind": {"enum": ["a", 1, None]}, "n": {"type": ["integer", "null"]},
                                         "more": {"$ref": "#/$defs/list"}},
        "required": ["name", "x"], "additionalProperties": True,
        "$defs": {"list": {"type": "array", "items": {"anyOf": [{"$ref": "#"}, {"const": "c"}]}, "minItems": 1, "maxItems": 3}}}),
        b"\0", '{"name": "b", "kind": null, "n": -1, "more": ["c"], "x": 1.5e2, "y": true}')


for make in (safetensors, gguf, config, tokenizer, jinja, http_body, dataset, schema):
    make()
