"""Small random checkpoints of every supported family, laid out as the published ones are on the hub."""

import json
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
    SmolVLMForConditionalGeneration,  # noqa: F401
)

TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif 'text' in part %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
MARKERS = {  # what a chat template puts in the place of a picture
    "qwen2_vl": QWEN_IMAGE, "qwen2_5_vl": QWEN_IMAGE, "qwen3_vl": QWEN_IMAGE,
    "smolvlm": "<image>", "internvl": "<IMG_CONTEXT>",
}
MORE_TOKENS = {
    "smolvlm": ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<video>",
                *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))],
    "internvl": ["<img>", "</img>", "<IMG_CONTEXT>", "<video>"],
}
FAMILIES = tuple(MARKERS)
TEXT = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            rms_norm_eps=1e-6, max_position_embeddings=4096, hidden_act="silu")


def _qwen(tokenizer: PreTrainedTokenizerFast) -> dict:
    """What the configurations of all three Qwen-VL families say of their tokens."""
    names = dict(image_token_id="<|image_pad|>", video_token_id="<|video_pad|>",
                 vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>")
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def _config(family: str, tokenizer: PreTrainedTokenizerFast) -> dict:
    """config.json, flat or nested as the family's published one, with small numbers in it."""
    ends = dict(bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, vocab_size=len(tokenizer))
    rope = dict(rope_theta=1000000.0, rope_scaling=dict(type="mrope", mrope_section=[2, 3, 3]))
    if family == "qwen2_vl":
        vision = dict(depth=2, embed_dim=32, mlp_ratio=4, num_heads=2, in_chans=3, hidden_size=64, patch_size=14,
                      spatial_merge_size=2, spatial_patch_size=14, temporal_patch_size=2)
        return TEXT | ends | rope | _qwen(tokenizer) | dict(
            architectures=["Qwen2VLForConditionalGeneration"], model_type=family, tie_word_embeddings=True,
            torch_dtype="bfloat16", use_sliding_window=False, sliding_window=32768, max_window_layers=28,
            attention_dropout=0.0, initializer_range=0.02, use_cache=True, vision_config=vision)
    if family == "qwen2_5_vl":
        vision = dict(depth=2, hidden_act="silu", hidden_size=32, intermediate_size=48, num_heads=2, in_chans=3,
                      out_hidden_size=64, patch_size=14, spatial_merge_size=2, spatial_patch_size=14, window_size=112,
                      fullatt_block_indexes=[1], tokens_per_second=2, temporal_patch_size=2)
        return TEXT | ends | rope | _qwen(tokenizer) | dict(
            architectures=["Qwen2_5_VLForConditionalGeneration"], model_type=family, tie_word_embeddings=True,
            torch_dtype="bfloat16", use_sliding_window=False, sliding_window=32768, max_window_layers=70,
            use_cache=True, vision_config=vision)
    if family == "qwen3_vl":
        text = TEXT | ends | dict(
            model_type="qwen3_vl_text", head_dim=16, rope_theta=5000000, tie_word_embeddings=True, dtype="bfloat16",
            attention_bias=False,
            rope_scaling=dict(mrope_interleaved=True, mrope_section=[3, 3, 2], rope_type="default"))
        vision = dict(model_type=family, depth=2, hidden_act="gelu_pytorch_tanh", hidden_size=32, intermediate_size=48,
                      num_heads=2, in_channels=3, out_hidden_size=64, patch_size=16, spatial_merge_size=2,
                      temporal_patch_size=2, num_position_embeddings=256, deepstack_visual_indexes=[0])
        return _qwen(tokenizer) | dict(architectures=["Qwen3VLForConditionalGeneration"], model_type=family,
                                       tie_word_embeddings=True, text_config=text, vision_config=vision)
    if family == "smolvlm":
        vision = dict(model_type="smolvlm_vision", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                      num_attention_heads=2, image_size=56, patch_size=14)
        return dict(architectures=["SmolVLMForConditionalGeneration"], model_type=family, scale_factor=2,
                    image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=tokenizer.pad_token_id,
                    text_config=TEXT | ends | dict(model_type="llama", pad_token_id=tokenizer.pad_token_id),
                    vision_config=vision, vocab_size=len(tokenizer), tie_word_embeddings=False)
    vision = dict(model_type="internvl_vision", hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                  num_attention_heads=2, image_size=[56, 56], patch_size=[14, 14])
    return dict(architectures=["InternVLForConditionalGeneration"], model_type=family, downsample_ratio=0.5,
                image_seq_length=4, image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
                vision_feature_layer=-1, vision_feature_select_strategy="default", projector_hidden_act="gelu",
                text_config=TEXT | ends | dict(model_type="qwen2", tie_word_embeddings=True), vision_config=vision)


def _preprocessor(family: str) -> dict:
    """preprocessor_config.json, with the keys of the published one."""
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    if family in ("qwen2_vl", "qwen2_5_vl"):
        return half | dict(min_pixels=3136, max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2,
                           image_processor_type="Qwen2VLImageProcessor", processor_class=f"{_title(family)}Processor")
    if family == "qwen3_vl":
        return half | dict(size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2,
                           merge_size=2, processor_class="Qwen3VLProcessor",
                           image_processor_type="Qwen2VLImageProcessorFast")
    if family == "smolvlm":
        return half | dict(do_image_splitting=True, max_image_size=dict(longest_edge=56), size=dict(longest_edge=112),
                           do_convert_rgb=True, do_normalize=True, do_pad=True, do_rescale=True, do_resize=True,
                           resample=1, rescale_factor=1 / 255, image_processor_type="SmolVLMImageProcessor",
                           processor_class="SmolVLMProcessor")
    return half | dict(crop_size=None, crop_to_patches=False, data_format="channels_first", do_convert_rgb=True,
                       do_normalize=True, do_rescale=True, do_resize=True, max_patches=12, min_patches=1, resample=3,
                       rescale_factor=1 / 255, size=dict(height=56, width=56), processor_class="InternVLProcessor",
                       image_processor_type="GotOcr2ImageProcessorFast")


def _title(family: str) -> str:
    return {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL", "smolvlm": "SmolVLM",
            "internvl": "InternVL"}[family]


def _save_tokenizer(family: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json with the names of the family's own tokens."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    more = dict(processor_class=f"{_title(family)}Processor")
    if family == "smolvlm":
        more |= dict(image_token="<image>", fake_image_token="<fake_token_around_image>",
                     global_image_token="<global-img>", end_of_utterance_token="<end_of_utterance>")
    if family == "internvl":
        more |= dict(extra_special_tokens=dict(start_image_token="<img>", end_image_token="</img>",
                                               context_image_token="<IMG_CONTEXT>", video_token="<video>"))
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def write_checkpoint(family: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """A random checkpoint of about 0.3 million parameters; `tokenizer` is the miniature's, and is not changed."""
    folder.mkdir(parents=True)
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|im_end|>",
                                  pad_token="<|endoftext|>", padding_side="left")
    own.add_special_tokens(dict(additional_special_tokens=[
        "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
        *MORE_TOKENS.get(family, [])]))
    _save_tokenizer(family, own, folder)
    (folder / "config.json").write_text(json.dumps(_config(family, own)))
    (folder / "preprocessor_config.json").write_text(json.dumps(_preprocessor(family)))
    if family in ("smolvlm", "internvl"):
        length = {"smolvlm": "image_seq_len", "internvl": "image_seq_length"}[family]
        processor = {"processor_class": f"{_title(family)}Processor", length: 4}
        (folder / "processor_config.json").write_text(json.dumps(processor))
    text = TEMPLATE.replace("IMAGE", MARKERS[family])
    (folder / "chat_template.json").write_text(json.dumps(dict(chat_template=text)))
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder))
    weights = folder / "weights"
    model.save_pretrained(weights)
    (weights / "model.safetensors").rename(folder / "model.safetensors")
    for path in weights.iterdir():
        path.unlink()
    weights.rmdir()
    greedy = dict(do_sample=True, top_k=1, top_p=0.001, temperature=0.01, repetition_penalty=1.05)  # as Qwen ships it
    ends = dict(eos_token_id=[own.eos_token_id, own.pad_token_id], pad_token_id=own.pad_token_id)
    (folder / "generation_config.json").write_text(json.dumps(greedy | ends))
    return folder
