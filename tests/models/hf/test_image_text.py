from functools import cache

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize

import whybox
from models import hf_models
from models.hf_models import IMAGE_TEXT, VISION, WORDS, clip, stirred, tokenizer
from models.hf_versions import pooled, tokens_of, vision_inputs, with_attention
from whybox.errors import WeightsError, WhyboxError
from whybox.model import Model
from whybox.models.hf._layers import pre_norm_layer
from whybox.models.hf.image_text import FAMILIES, matches
from whybox.ops.transformer import attend, run_layer

NAMES = list(IMAGE_TEXT)
BOTH = ["clip", "siglip", "siglip2"]
"""Families that run with SDPA as well as eagerly; BLIP is always eager."""
ATTENTIONS = [(name, "eager") for name in NAMES] + [(name, "sdpa") for name in BOTH]
TEXTS = ["a red ball", "photo of a big blue dog left of a tree", "tree"]


@cache
def network(name, attention="eager"):
    torch.manual_seed(0)
    net = stirred(IMAGE_TEXT[name]())
    if name in BOTH:
        return with_attention(net, attention)
    return net


@cache
def model_of(name, attention="eager"):
    return whybox.load(network(name, attention), tokenizer=tokenizer()).prompt(TEXTS)


def picture(height=40, width=60, seed=1):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def image(height=40, width=60, seed=1):
    return torch.from_numpy(picture(height, width, seed)).permute(2, 0, 1) / 255


def image_inputs(name, height=40, width=60):
    """What transformers' own processor makes of the picture."""
    own = getattr(transformers, FAMILIES[name.split("_")[0]].processor)
    sizes = {
        "clip": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        "siglip2": {"patch_size": 8, "max_num_patches": 16},
    }
    own = own(**sizes.get(name, {"size": {"height": 32, "width": 32}}))
    return own(images=Image.fromarray(picture(height, width)), return_tensors="pt")


def text_inputs(name, texts=TEXTS):
    padding = {"padding": "max_length", "max_length": 16} if "siglip" in name else {"padding": True}
    return tokenizer()(texts, return_tensors="pt", return_token_type_ids=False, **padding)


def answer(name, net, height=40, width=60):
    """(1,T) transformers' own logits, for BLIP's retrieval its own cosines, of the picture and the texts."""
    inputs = {**image_inputs(name, height, width), **text_inputs(name)}
    with torch.no_grad():
        if name != "blip_retrieval":
            return net(**inputs).logits_per_image
        inputs["pixel_values"] = inputs["pixel_values"].expand(len(TEXTS), -1, -1, -1)
        return net(**inputs, use_itm_head=False).itm_score[:1]


def away(ours, theirs):
    return float((ours.detach() - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("shape", [(40, 60), (71, 33), (32, 32)])
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_transformers(name, shape):
    candidates = model_of(name).trace(image(*shape)).candidates
    theirs = answer(name, network(name), *shape)
    assert away(candidates.scores if name == "blip_retrieval" else candidates.logits, theirs) < 1e-5
    assert candidates.scores.std() > 1e-3


@pytest.mark.parametrize(("name", "attention"), ATTENTIONS)
def test_image_layers_are_the_modules_own(name, attention):
    net, model = network(name, attention), model_of(name, attention)
    transformer_pass = model.transformer(model.trace(image()))
    with torch.no_grad():
        output = net.vision_model(**vision_inputs(net, image_inputs(name)), output_hidden_states=True)
    hidden = [tensor[:, : transformer_pass.tokens[0].shape[1]] for tensor in output.hidden_states]
    # BLIP appends what stands behind its last norm.
    for ours, theirs in zip(transformer_pass.tokens, hidden, strict=False):
        assert away(ours, theirs) < 1e-5
    layers = transformer_pass.transformer.layers
    assert len(layers) == (4 if "siglip" in name else 3) == len(transformer_pass.tokens)
    assert layers[-1].pools is ("siglip" in name)


@pytest.mark.parametrize(("name", "attention"), ATTENTIONS)
def test_text_layers_are_the_modules_own(name, attention):
    net, model = network(name, attention), model_of(name, attention)
    transformer_pass = model.text_transformer(model.trace(image()))
    encoder = net.text_encoder if name == "blip_retrieval" else net.text_model
    with torch.no_grad():
        output = encoder(**text_inputs(name), output_hidden_states=True)
    kept = text_inputs(name)["attention_mask"].bool()
    for ours, theirs in zip(transformer_pass.tokens, output.hidden_states, strict=False):
        assert away(ours[kept], theirs[kept]) < 1e-5
    if name == "blip_retrieval":
        own = net.text_proj(output.last_hidden_state[:, 0])
    else:
        own = pooled(net.get_text_features(**text_inputs(name)))
    assert away(transformer_pass.embedding, own.detach()) < 1e-5


@pytest.mark.parametrize("name", BOTH)
def test_sdpa_and_eager_give_the_same_gradients(name):
    gradients = []
    for attention in ("eager", "sdpa"):
        model = model_of(name, attention)
        trace = model.trace(image())
        ways = model.pullbacks(trace, trace.detections, None, "auto")
        gradients.append(torch.cat([way.gradient(lambda t: t.candidates.scores.diagonal()).gradient for way in ways]))
    assert gradients[0].abs().amax() > 1e-6
    assert away(*gradients) < 1e-4


@pytest.mark.parametrize("name", ["clip", "blip_retrieval"])
def test_probabilities_are_those_of_eager_attention(name):
    transformer_pass = model_of(name).transformer(model_of(name).trace(image()))
    with torch.no_grad():
        output = network(name).vision_model(**image_inputs(name), output_attentions=True)
    for layer, tokens, theirs in zip(
        transformer_pass.transformer.layers, transformer_pass.tokens, output.attentions, strict=True
    ):
        ours = attend(layer, tokens, probabilities=True).probabilities
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_pooling_head_is_that_of_torch():
    transformer_pass = model_of("siglip").transformer(model_of("siglip").trace(image()))
    vision = network("siglip").vision_model
    normed = vision.post_layernorm(transformer_pass.tokens[-1])
    own, weights = vision.head.attention(vision.head.probe, normed, normed, average_attn_weights=False)
    head = transformer_pass.transformer.layers[-1]
    attended = attend(head, transformer_pass.tokens[-1], probabilities=True)
    assert torch.allclose(attended.probabilities, weights, atol=1e-6)
    assert torch.allclose(head.out(attended.mixed), own, atol=1e-5)


def test_blocks_of_older_names_are_taken_apart():
    # YOLOS still has the names that ViT had before transformers 5.
    config = transformers.YolosConfig(**{**VISION, "image_size": [32, 32]})
    config._attn_implementation = "eager"
    block = stirred(transformers.models.yolos.modeling_yolos.YolosLayer(config))
    tokens = torch.randn(2, 7, 32)
    output = tokens_of(block(tokens)).detach()
    assert away(run_layer(pre_norm_layer(block, "0"), tokens), output) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_predict_equals_trace(name):
    model = model_of(name)
    images = torch.stack([image(seed=1), image(seed=2)])
    for one, alone in zip(model.predict(images), images, strict=True):
        assert torch.allclose(one.scores, model.trace(alone).candidates.scores, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_text_does_not_depend_on_its_neighbors_or_on_padding(name):
    model = model_of(name)
    together = model.embed_texts(TEXTS)
    alone = torch.cat([model.embed_texts([text]) for text in TEXTS])
    assert torch.allclose(together, alone, atol=1e-5)
    trace = model.trace(image())
    short, full = (normalize(model.text_transformer(trace, padded=padded).embedding, dim=-1) for padded in (False, True))
    assert torch.allclose(short, full, atol=1e-5)
    assert torch.allclose(short, together, atol=1e-5)


def test_padding_goes_to_the_context_where_asked():
    model = model_of("clip")
    trace = model.trace(image())
    assert model.text_transformer(trace).words.shape == (3, 12)
    assert model.text_transformer(trace, padded=True).words.shape == (3, 16)
    assert model_of("siglip").text_transformer(model_of("siglip").trace(image())).words.shape == (3, 16)


def test_padding_on_the_left_is_put_on_the_right():
    left = whybox.load(network("clip"), tokenizer=tokenizer(padding_side="left"))
    assert torch.allclose(left.embed_texts(TEXTS), model_of("clip").embed_texts(TEXTS), atol=1e-6)


def test_a_tokenizer_without_attention_masks_lets_siglip_see_its_padding():
    bare = tokenizer(model_input_names=["input_ids"])
    model = whybox.load(network("siglip"), tokenizer=bare)
    inputs = text_inputs("siglip")
    with torch.no_grad():
        seen = pooled(network("siglip").get_text_features(input_ids=inputs["input_ids"]))
    assert torch.allclose(model.embed_texts(TEXTS), normalize(seen, dim=-1), atol=1e-5)
    assert not torch.allclose(model.embed_texts(TEXTS), model_of("siglip").embed_texts(TEXTS), atol=1e-3)


@pytest.mark.parametrize("end", [2, WORDS.index("<end>")])
def test_the_row_that_clip_reads(end):
    # With eos_token_id 2, as old configurations have it, the largest id is read.
    torch.manual_seed(0)
    net = stirred(clip(eos_token_id=end))
    model = whybox.load(net, tokenizer=tokenizer()).prompt(TEXTS)
    transformer_pass = model.text_transformer(model.trace(image()))
    assert transformer_pass.row.tolist() == [4, 11, 2]
    with torch.no_grad():
        own = pooled(net.get_text_features(**text_inputs("clip")))
    assert away(transformer_pass.embedding, own) < 1e-5


@pytest.mark.parametrize(("name", "rows"), [("siglip", [15] * 3), ("siglip2", [15] * 3), ("blip", [0] * 3)])
def test_the_row_that_others_read(name, rows):
    assert model_of(name).text_transformer(model_of(name).trace(image())).row.tolist() == rows


@pytest.mark.parametrize("name", NAMES)
def test_words_are_the_texts_own_tokens(name):
    model = model_of(name)
    words = model.text_transformer(model.trace(image())).words
    assert words.sum(1).tolist() == [3, 10, 1] == [len(text.tokens) for text in model.texts]
    assert words[0, :5].tolist() == [False, True, True, True, False]


def state(net):
    return (
        [part.training for part in net.modules()],
        [(weight.requires_grad, weight.dtype, weight.grad, weight.data_ptr()) for weight in net.parameters()],
        [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in net.modules()],
        net.config._attn_implementation,
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_module_is_left_as_it_was(name):
    torch.manual_seed(0)
    net = IMAGE_TEXT[name]().train()
    net.vision_model.requires_grad_(False)
    before = state(net)
    model = whybox.load(net, tokenizer=tokenizer()).prompt(TEXTS)
    trace = model.trace(image())
    list(model.pullbacks(trace, trace.detections, None, "auto"))
    model.text_transformer(trace)
    assert state(net) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_comes_near(name, dtype):
    torch.manual_seed(0)
    net = stirred(IMAGE_TEXT[name](), 0.05).to(dtype)
    model = whybox.load(net, tokenizer=tokenizer()).prompt(TEXTS)
    trace = model.trace(image())
    wide = whybox.load(stirred(IMAGE_TEXT[name](), 0.0).float(), tokenizer=tokenizer())
    wide.network.load_state_dict({key: value.float() for key, value in net.state_dict().items()})
    theirs = wide.prompt(TEXTS).trace(image())
    assert torch.allclose(trace.candidates.scores, theirs.candidates.scores, atol=0.03)
    (way,) = model.pullbacks(trace, trace.detections[:1], None, "auto")
    (exact,) = wide.prompt(TEXTS).pullbacks(theirs, theirs.detections[:1], None, "auto")
    ours, reference = (one.gradient(lambda t: t.candidates.scores[:, 0]).gradient for one in (way, exact))
    assert ours.dtype == torch.float32
    assert cosine_similarity(ours.flatten(), reference.flatten(), 0) > 0.95
    assert next(net.parameters()).dtype == dtype


@pytest.mark.parametrize("size", ["keep", (48, 24)])
@pytest.mark.parametrize("name", ["clip", "siglip", "blip_retrieval", "blip"])
def test_other_sizes_interpolate_the_position_embeddings(name, size):
    net = network(name)
    model = whybox.load(net, tokenizer=tokenizer(), size=size).prompt(TEXTS)
    trace = model.trace(image(41, 66))
    assert trace.frame.network == ((40, 64) if size == "keep" else size)
    assert model.transformer(trace).grid == ((5, 8) if size == "keep" else (6, 3))
    own = getattr(transformers, FAMILIES[name.split("_")[0]].processor)(do_resize=True, do_center_crop=False)
    height, width = trace.frame.network
    pixels = own(Image.fromarray(picture(41, 66)), size={"height": height, "width": width}, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        if name == "blip_retrieval":
            seen = net.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state[:, 0]
            theirs = net.vision_proj(seen)
        else:
            theirs = pooled(net.get_image_features(pixels, interpolate_pos_encoding=True))
    assert away(trace.embedding, theirs) < 1e-5


def test_an_image_whose_sides_no_patches_fill():
    # As in SigLIP so400m at 384 pixels with patches of 14: the convolution leaves the last pixels out.
    torch.manual_seed(0)
    config = transformers.SiglipConfig(
        vision_config={**VISION, "image_size": 38}, text_config={**hf_models.TEXT, "projection_size": 32}
    )
    net = stirred(transformers.SiglipModel(config))
    model = whybox.load(net, tokenizer=tokenizer()).prompt(TEXTS)
    trace = model.trace(image())
    assert trace.frame.network == (32, 32)
    assert trace.frame.resized == (38, 38)
    own = transformers.SiglipImageProcessor(size={"height": 38, "width": 38})
    with torch.no_grad():
        theirs = pooled(net.get_image_features(**own(Image.fromarray(picture()), return_tensors="pt")))
    assert away(trace.embedding, theirs) < 1e-5


def test_patches_on_a_budget_keep_the_aspect():
    trace = model_of("siglip2").trace(image(40, 60))
    assert trace.frame.network == (24, 40)
    assert model_of("siglip2").transformer(trace).grid == (3, 5)
    with pytest.raises(WhyboxError, match="SigLIP 2 keeps the aspect by itself: leave size out"):
        whybox.load(network("siglip2"), tokenizer=tokenizer(), size="keep")


def test_a_whole_processor_brings_its_tokenizer():
    own = transformers.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    both = transformers.VisionTextDualEncoderProcessor(own, tokenizer())
    model = whybox.load(network("clip"), processor=both)
    assert model.trace(image()).frame.resized == (40, 60)
    assert torch.equal(model.embed_texts(TEXTS), model_of("clip").embed_texts(TEXTS))
    apart = whybox.load(network("clip"), processor=own, tokenizer=both)
    assert torch.equal(apart.embed_texts(TEXTS), model_of("clip").embed_texts(TEXTS))


@pytest.mark.parametrize("name", ["clip", "siglip", "blip_retrieval"])
def test_a_folder_is_loaded_by_name(name, tmp_path):
    net = network(name)
    net.save_pretrained(tmp_path)
    own = getattr(transformers, FAMILIES[name.split("_")[0]].processor)
    own(size={"height": 24, "width": 24}, do_center_crop=False).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    model = whybox.load(f"hf/{tmp_path}").prompt(TEXTS)
    assert model.name == f"hf/{tmp_path}"
    assert type(model.network) is type(net)
    assert model.trace(image()).frame.network == (24, 24)
    assert torch.allclose(model.embed_texts(TEXTS), model_of(name).embed_texts(TEXTS), atol=1e-6)
    random = whybox.load(f"hf/{tmp_path}", weights=None)
    assert not torch.allclose(random.embed_texts(TEXTS), model_of(name).embed_texts(TEXTS), atol=1e-3)
    # A module that knows where it came from finds what is kept there.
    found = whybox.load(type(net).from_pretrained(tmp_path))
    assert found.trace(image()).frame.network == (24, 24)
    assert torch.allclose(found.embed_texts(TEXTS), model_of(name).embed_texts(TEXTS), atol=1e-6)


def test_a_folder_without_a_processor_takes_the_usual_one(tmp_path):
    network("clip").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    trace = whybox.load(f"hf/{tmp_path}").prompt(TEXTS).trace(image())
    assert torch.allclose(trace.candidates.scores, model_of("clip").trace(image()).candidates.scores, atol=1e-6)


def test_weights_from_a_file(tmp_path):
    net = network("clip")
    net.save_pretrained(tmp_path / "one")
    torch.manual_seed(5)
    other = stirred(clip())
    other.save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "one")
    transformers.CLIPImageProcessor().save_pretrained(tmp_path / "one")
    model = whybox.load(f"hf/{tmp_path / 'one'}", weights=tmp_path / "other" / "model.safetensors")
    assert torch.equal(model.network.visual_projection.weight, other.visual_projection.weight)


@pytest.mark.parametrize(
    ("kind", "lacks"),
    [
        ("CLIPVisionModel", "its text side"),
        ("CLIPVisionModelWithProjection", "its text side"),
        ("CLIPTextModel", "its image side"),
        ("SiglipVisionModel", "its text side"),
        ("SiglipTextModel", "its image side"),
        ("BlipForConditionalGeneration", "an image-text score"),
    ],
)
def test_models_of_one_side_are_refused_in_one_line(kind, lacks):
    config = {"Blip": hf_models.blip_config, "CLIP": clip, "Sigl": hf_models.siglip}[kind[:4]]()
    config = config if kind.startswith("Blip") else config.config
    side = "vision_config" if "Vision" in kind else "text_config"
    net = getattr(transformers, kind)(config if kind.startswith("Blip") else getattr(config, side))
    assert matches(net)
    with pytest.raises(WhyboxError, match=rf"{kind} lacks {lacks}, so no text .* which has both sides") as error:
        whybox.load(net, tokenizer=tokenizer())
    assert "\n" not in str(error.value)


def test_a_folder_of_another_kind_is_refused_in_one_line(tmp_path):
    transformers.BlipForConditionalGeneration(hf_models.blip_config()).save_pretrained(tmp_path)
    with pytest.raises(WhyboxError, match="BlipForConditionalGeneration lacks an image-text score"):
        whybox.load(f"hf/{tmp_path}")
    transformers.BertConfig(architectures=["BertModel"]).save_pretrained(tmp_path)
    with pytest.raises(WhyboxError, match="is a BertModel, which whybox does not know: it explains detection transformers"):
        whybox.load(f"hf/{tmp_path}")
    with pytest.raises(WeightsError, match="takes its own weights, a file or None"):
        whybox.load(f"hf/{tmp_path}", weights="laion")


def test_a_missing_tokenizer_is_told_in_one_line(tmp_path):
    with pytest.raises(WhyboxError, match="CLIPModel comes without a tokenizer, which reads the texts: give tokenizer="):
        whybox.load(network("clip"))
    network("clip").save_pretrained(tmp_path)
    transformers.CLIPImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(WhyboxError, match=r"(its folder, or|reads the texts:) give tokenizer="):
        whybox.load(f"hf/{tmp_path}")


def test_a_missing_package_is_told_in_one_line(tmp_path, monkeypatch):
    def missing(name, **options):
        raise ImportError("\nSiglipTokenizer requires the SentencePiece library\nCheck out the instructions")

    network("siglip").save_pretrained(tmp_path)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", missing)
    for loaded in (f"hf/{tmp_path}", transformers.SiglipModel.from_pretrained(tmp_path)):
        with pytest.raises(WhyboxError, match="needs a package that is missing: SiglipTokenizer requires the Sent") as error:
            whybox.load(loaded)
        assert "\n" not in str(error.value)


def test_a_tokenizer_of_another_model_is_told_in_one_line():
    torch.manual_seed(0)
    model = whybox.load(clip(vocab_size=10), tokenizer=tokenizer())
    with pytest.raises(WhyboxError, match="the tokenizer gives the token 14, the model knows 10: give its own tokenizer"):
        model.prompt(["a red ball"])


def test_a_head_that_is_missing_is_told_in_one_line():
    config = transformers.SiglipConfig(
        vision_config={**VISION, "vision_use_head": False}, text_config={**hf_models.TEXT, "projection_size": 32}
    )
    with pytest.raises(WhyboxError, match="SiglipModel has no head that pools its patches"):
        whybox.load(transformers.SiglipModel(config), tokenizer=tokenizer())


@pytest.mark.parametrize("texts", [[""], ["a tree", " \t"]])
def test_empty_texts_are_refused(texts):
    with pytest.raises(WhyboxError, match="a text is empty"):
        model_of("clip").prompt(texts)


def test_a_long_text_is_cut_and_told():
    text = "a red ball left of a tree right of a big blue dog photo of a red dog"
    model = model_of("clip").prompt([text])
    assert len(model.texts[0].tokens) == 14
    assert model.texts[0].cut == "of a red dog"
    transformer_pass = model.text_transformer(model.trace(image()))
    assert transformer_pass.row.tolist() == [15]
    same = model.embed_texts([text.removesuffix(" of a red dog")])
    assert torch.allclose(model.embed_texts([text]), same, atol=1e-6)


def test_unknown_words_break_nothing():
    model = model_of("clip").prompt(["a 🎈 zebra"])
    assert model.texts[0].tokens == ("a", "🎈", "zebra")
    assert model.trace(image()).candidates.scores.isfinite().all()


def test_modules_of_other_makes_are_not_taken():
    assert not matches(torch.nn.Linear(2, 2))
    assert not matches(hf_models.vit())
    assert not matches(transformers.CLIPForImageClassification(clip().config))
    assert isinstance(model_of("clip"), Model)
    own = type("Mine", (transformers.CLIPModel,), {})(clip().config)
    assert matches(own)
    assert whybox.load(own, tokenizer=tokenizer()).prompt(TEXTS).classes == TEXTS
