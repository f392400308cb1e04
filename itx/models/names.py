# SPDX-License-Identifier: Apache-2.0
"""What each of our parameters is called in Hugging Face's models: tables of our path and the name
of the tensor, `{}` standing for the layer. families.py says which family has which."""


def table(text: str) -> dict[str, str]:
    """Two columns of words -> {first: second}."""
    return dict(line.split() for line in text.strip().splitlines())


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LLAMA = table("""
    embedding                              model.embed_tokens.weight
    head                                   lm_head.weight
    decoder/final_norm/scale               model.norm.weight
    decoder/blocks/attention_norm/scale    model.layers.{}.input_layernorm.weight
    decoder/blocks/attention/wq            model.layers.{}.self_attn.q_proj.weight
    decoder/blocks/attention/wk            model.layers.{}.self_attn.k_proj.weight
    decoder/blocks/attention/wv            model.layers.{}.self_attn.v_proj.weight
    decoder/blocks/attention/wo            model.layers.{}.self_attn.o_proj.weight
    decoder/blocks/attention/bq            model.layers.{}.self_attn.q_proj.bias
    decoder/blocks/attention/bk            model.layers.{}.self_attn.k_proj.bias
    decoder/blocks/attention/bv            model.layers.{}.self_attn.v_proj.bias
    decoder/blocks/attention/q_norm/scale  model.layers.{}.self_attn.q_norm.weight
    decoder/blocks/attention/k_norm/scale  model.layers.{}.self_attn.k_norm.weight
    decoder/blocks/mlp_norm/scale          model.layers.{}.post_attention_layernorm.weight
    decoder/blocks/mlp/w_gate              model.layers.{}.mlp.gate_proj.weight
    decoder/blocks/mlp/w_in                model.layers.{}.mlp.up_proj.weight
    decoder/blocks/mlp/w_out               model.layers.{}.mlp.down_proj.weight
""")
GEMMA = LLAMA | table("""
    decoder/blocks/attention_post_norm/scale  model.layers.{}.post_attention_layernorm.weight
    decoder/blocks/mlp_norm/scale             model.layers.{}.pre_feedforward_layernorm.weight
    decoder/blocks/mlp_post_norm/scale        model.layers.{}.post_feedforward_layernorm.weight
""")


def _t5_stack(stack: str, mlp: int) -> dict[str, str]:
    """The names of a T5's encoder or decoder; `mlp`: the MLP's place among the parts of a layer."""
    bias = "block.0.layer.0.SelfAttention.relative_attention_bias"  # all layers use the first's
    layer = f"{stack}.block.{{}}.layer"
    return table(f"""
        {stack}/final_norm/scale             {stack}.final_layer_norm.weight
        {stack}/relative_bias                {stack}.{bias}.weight
        {stack}/blocks/attention_norm/scale  {layer}.0.layer_norm.weight
        {stack}/blocks/attention/wq          {layer}.0.SelfAttention.q.weight
        {stack}/blocks/attention/wk          {layer}.0.SelfAttention.k.weight
        {stack}/blocks/attention/wv          {layer}.0.SelfAttention.v.weight
        {stack}/blocks/attention/wo          {layer}.0.SelfAttention.o.weight
        {stack}/blocks/mlp_norm/scale        {layer}.{mlp}.layer_norm.weight
        {stack}/blocks/mlp/w_gate            {layer}.{mlp}.DenseReluDense.wi_0.weight
        {stack}/blocks/mlp/w_in              {layer}.{mlp}.DenseReluDense.wi_1.weight
        {stack}/blocks/mlp/w_out             {layer}.{mlp}.DenseReluDense.wo.weight
    """)


T5 = table("""
    embedding                        shared.weight
    head                             lm_head.weight
""")
T5 |= _t5_stack("encoder", 1) | _t5_stack("decoder", 2)
T5 |= table("""
    decoder/blocks/cross_norm/scale  decoder.block.{}.layer.1.layer_norm.weight
    decoder/blocks/cross/wq          decoder.block.{}.layer.1.EncDecAttention.q.weight
    decoder/blocks/cross/wk          decoder.block.{}.layer.1.EncDecAttention.k.weight
    decoder/blocks/cross/wv          decoder.block.{}.layer.1.EncDecAttention.v.weight
    decoder/blocks/cross/wo          decoder.block.{}.layer.1.EncDecAttention.o.weight
""")
T5_UNGATED = table("""
    encoder/blocks/mlp/w_in  encoder.block.{}.layer.1.DenseReluDense.wi.weight
    decoder/blocks/mlp/w_in  decoder.block.{}.layer.2.DenseReluDense.wi.weight
""")

# Parts that see images, which no text passes through
IMAGES = r"(model\.)?(vision_tower|multi_modal_projector)\..*"
# Tensors that a file may hold besides the model's: copies of others, constants, and the parts that
# see images
COPIES = (
    r"(en|de)coder\.embed_tokens\.weight",
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    r".*rotary_emb\.inv_freq",
    r"rope_freqs\.weight",  # of a GGUF file, which its settings are read from
    IMAGES,
)
# Prefixes of the text model's tensors inside a model that also sees images -> the text model's own
INSIDE = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}


def outside(name: str) -> str:
    """The name of a tensor as the text model alone has it."""
    for inner, plain in INSIDE.items():
        if name.startswith(inner):
            return plain + name.removeprefix(inner)
    return name


def inside(name: str) -> str:
    """The name of a text model's module in the class that a model which also sees images is loaded
    as, whatever the file calls it."""
    own = name.removeprefix("model.")
    return name if own == name else f"model.language_model.{own}"
