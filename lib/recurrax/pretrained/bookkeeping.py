"""Handles the config.json fields of all families: ignores those without effect on logits, refuses unsupported ones."""

from recurrax.pretrained.fields import Fields

IGNORED = (
    # The origin of the file, and the code that reads it.
    "architectures",
    "auto_map",
    "model_type",
    "name_or_path",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "_commit_hash",
    "_from_model_config",
    "_name_or_path",
    "custom_pipelines",
    # Dtypes and kernels; `load` has its own arguments for the dtypes.
    "dtype",
    "torch_dtype",
    "use_bfloat16",
    "torchscript",
    "tf_legacy_loss",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_autoset",
    "experts_implementation",
    "_experts_implementation",
    "gradient_checkpointing",
    # Outputs of a call, special tokens, and labels of heads that are not read.
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "use_return_dict",
    "use_cache",
    "chunk_size_feed_forward",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    "decoder_start_token_id",
    "prefix",
    "tokenizer_class",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "task_specific_params",
    # Fields that only initialisation and training read.
    "initializer_range",
    "is_decoder",
    # Defaults of generation, which transformers 4 writes into config.json.
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "output_scores",
    "return_dict_in_generate",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
)

QUANTISED = ("quantization_config", "quantization", "compression_config")
NESTED = ("text_config", "llm_config", "language_config", "vision_config", "audio_config")


def refuse_wrappers(fields: Fields) -> None:
    """Raise ValueError if the config is that of quantised tensors or of a multimodal model."""
    for name in QUANTISED:
        if stated := fields.nested(name).values:
            method = stated.get("quant_method", "of no stated method")
            raise ValueError(
                f"{fields.path}: {name} ({method}) says that the tensors are quantised; only checkpoints whose tensors "
                "are floating-point numbers are read"
            )
    for name in NESTED:
        if fields.nested(name).values:
            raise ValueError(
                f"{fields.path}: {name} belongs to a model of several modalities; only models of text alone are read"
            )


def read_bookkeeping(fields: Fields) -> None:
    """Mark the fields of all families as known, and raise ValueError for values that would change the model."""
    fields.ignore(*IGNORED)
    for name in ("is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"):
        fields.require(name, False)
    fields.require("pruned_heads", {}, None)
    fields.require("cross_attention_hidden_size", None)
    fields.require("per_layer_config", None)
