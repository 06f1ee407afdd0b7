import json

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.model import CustomTextCLIP, convert_weights_to_lp
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch.nn.functional import interpolate

import whybox
from models import hf_versions
from models.open_clip_models import KINDS, KNOWS_GATES, POOLED, TEXT, VISION, clip, network, shaken, timm_vision, tokenizer
from whybox.errors import UnknownNameError, WeightsError, WhyboxError
from whybox.models.open_clip import family
from whybox.models.open_clip._images import keep_size
from whybox.models.open_clip._tokens import align
from whybox.ops.hooks import frozen
from whybox.ops.transformer import entering_layers, read_embedding, run_layers
from whybox.targets import ClassScore

PROMPTS = ["a red ball", "Two blue cubes, left of the Tree!", "x"]
NEEDS_GATES = pytest.mark.skipif(not KNOWS_GATES, reason="this timm has no gates")


def load(kind, **options):
    module = network(kind) if isinstance(kind, str) else kind
    return whybox.load(module, tokenizer=tokenizer(), **options)


def picture(height=64, width=64, seed=3):
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def away(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_taken_apart_the_image_tower_answers_as_its_own_forward_pass(kind):
    net, model = network(kind), load(kind)
    pixels = torch.randn(2, 3, 64, 64)
    vision = model.image_encoder.transformer
    with torch.no_grad(), frozen(net):
        with entering_layers(vision) as entered:
            theirs = model.image_encoder.embed(pixels)
        last = run_layers(vision.layers, entered[0][0])
        ours = read_embedding(vision, last, torch.zeros(2, dtype=torch.long))
    assert away(ours, theirs) < 1e-5
    assert away(ours[0], theirs[1]) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_taken_apart_the_text_tower_answers_as_its_own_forward_pass(kind):
    net, model = network(kind), load(kind)
    ids = tokenizer()(PROMPTS)
    theirs = net.encode_text(ids, normalize=False).detach()
    for padded in (False, True):
        batch = model.text_encoder.tokenize(PROMPTS, padded)
        with torch.no_grad():
            transformer = model.text_encoder.transformer
            with entering_layers(transformer) as entered:
                model.text_encoder.embed(batch.inputs)
            tokens = entered[0][0][:, : batch.words.shape[1]]
            last = run_layers(transformer.layers, tokens, transformer.mask(batch.inputs))
            ours = read_embedding(transformer, last, batch.row)
            assert away(ours, theirs) < 1e-5
            assert away(model.text_encoder.embed(batch.inputs), theirs) < 1e-6
        assert batch.words.shape == tokens.shape[:2]


@pytest.mark.parametrize("kind", ["native", "coca", "resnet", "siglip", "timm_mean"])
def test_predict_and_trace_give_the_cosine_and_the_logit(kind):
    net, model = network(kind), load(kind).prompt(PROMPTS)
    trace = model.trace(picture())
    told = model.predict(picture()[None])[0]
    assert torch.allclose(told.scores, trace.candidates.scores, atol=1e-5)
    pixels, _ = model.image_encoder.prepare(picture()[None])
    with torch.no_grad():
        image = net.encode_image(pixels, normalize=True)
        text = net.encode_text(tokenizer()(PROMPTS), normalize=True)
        logits = net.logit_scale.exp() * image @ text.T
    assert torch.allclose(trace.candidates.scores, image @ text.T, atol=1e-5)
    assert torch.allclose(trace.candidates.logits, logits, atol=1e-4)
    assert trace.detections.labels.tolist() == [0, 1, 2]
    assert model.classes == PROMPTS


def test_the_logit_has_the_offset_of_models_trained_with_a_sigmoid():
    candidates = load("last").prompt(PROMPTS).trace(picture()).candidates
    scale = network("last").logit_scale.exp().item()
    assert torch.allclose(candidates.logits, scale * candidates.scores - 10, atol=1e-4)


def test_scaled_cosine_attention_where_open_clip_runs_it(monkeypatch):
    net = shaken(clip({"scaled_cosine_attn": True})).eval()
    pixels = torch.randn(2, 3, 64, 64)
    vision = load(net).image_encoder.transformer
    # open_clip 3.3 multiplies four axes with bmm, which takes three.
    monkeypatch.setattr(torch, "bmm", torch.matmul)
    with torch.no_grad():
        with entering_layers(vision) as entered:
            theirs = net.encode_image(pixels)
        ours = read_embedding(vision, run_layers(vision.layers, entered[0][0]), torch.zeros(2, dtype=torch.long))
    assert away(ours, theirs) < 1e-5


# Sizes


SIZED = ["native", "mean", "coca", "resnet", "siglip", "timm_token", "timm_mean", "eva", "timm_any_size"]


@pytest.mark.parametrize("size", ["keep", (96, 32)])
@pytest.mark.parametrize("kind", SIZED)
def test_any_size_is_taken_and_the_module_left_as_it_was(kind, size):
    net = network(kind)
    before = {name: (value.data_ptr(), value.clone()) for name, value in net.state_dict().items()}
    model = load(kind, size=size).prompt(PROMPTS)
    step = model.image_encoder.prepare.patch[0]
    trace = model.trace(picture(70, 100))
    expected = (96, 32) if size != "keep" else (round(70 / step) * step, round(100 / step) * step)
    assert trace.frame.network == expected
    assert trace.features[0].grid == (expected[0] // step, expected[1] // step)
    told = model.predict(picture(70, 100)[None])[0]
    assert torch.allclose(told.scores, trace.candidates.scores, atol=1e-5)
    model.transformer(trace)
    for name, value in net.state_dict().items():
        assert value.data_ptr() == before[name][0]
        assert torch.equal(value, before[name][1])
    own = load(kind).prompt(PROMPTS)
    assert own.predict(picture()[None])[0].scores.isfinite().all()


def test_position_embeddings_are_those_of_a_network_made_for_the_size():
    torch.manual_seed(0)
    net = network("native")
    made = clip({"image_size": (96, 32)}).eval()
    weights = net.state_dict()
    positions = weights["visual.positional_embedding"]
    cells = positions[1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    cells = interpolate(cells, size=(6, 2), mode="bicubic", align_corners=False)
    cells = cells.permute(0, 2, 3, 1).reshape(12, 32)
    weights["visual.positional_embedding"] = torch.cat([positions[:1], cells])
    made.load_state_dict(weights)
    pixels = torch.randn(1, 3, 96, 32)
    with torch.no_grad():
        ours, theirs = load("native", size=(96, 32)).image_encoder.embed(pixels), made.encode_image(pixels)
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_after_an_exception_the_positions_are_the_models_own():
    net = shaken(clip())
    model = load(net, size=(96, 32)).prompt(PROMPTS)
    handle = net.visual.transformer.resblocks[1].register_forward_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.predict(picture()[None])
    handle.remove()
    assert net.visual.positional_embedding.shape == (17, 32)


@pytest.mark.parametrize(
    ("image", "expected"),
    [((480, 640), (480, 640)), ((478, 640), (480, 640)), ((5, 100), (16, 96)), ((800, 1200), (640, 960)), ((8, 7), (16, 16))],
)
def test_keep_is_the_images_size_in_whole_patches(image, expected):
    assert keep_size(image, (16, 16)) == expected


@pytest.mark.parametrize(
    ("size", "told"),
    [((65, 64), r"multiples of the patch.*nearest is \(64, 64\)"), (64, "None.*'keep'.*got 64"), ("crop", "got 'crop'")],
)
def test_sizes_that_cannot_be_are_refused(size, told):
    with pytest.raises(WhyboxError, match=told):
        load("native", size=size)


# Frames


@pytest.mark.parametrize("image", [(64, 64), (90, 131), (131, 90), (33, 140), (201, 64)])
@pytest.mark.parametrize("size", [64, (64, 96)])
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_pixels_are_those_of_open_clips_preprocessing_and_the_frame_says_where_they_came_from(mode, size, image):
    model = load("native", preprocess={"resize_mode": mode, "size": size})
    marked = torch.zeros(3, *image)
    top, left = image[0] // 2 - 7, image[1] // 2 - 9
    marked[:, top : top + 12, left : left + 15] = 1
    pixels, frame = model.image_encoder.prepare(marked[None])
    as_picture = Image.fromarray((marked.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    theirs = image_transform_v2(PreprocessCfg(size=size, resize_mode=mode), is_train=False)(as_picture)
    assert torch.equal(pixels[0], theirs)
    assert frame.network == tuple(theirs.shape[-2:])
    box = frame.boxes_to_network(torch.tensor([float(left), top, left + 15, top + 12]))
    light = (pixels[0] - pixels[0].amin((1, 2), keepdim=True)).sum(0)
    rows, columns = torch.arange(frame.network[0]) + 0.5, torch.arange(frame.network[1]) + 0.5
    center = (light.sum(0) @ columns / light.sum(), light.sum(1) @ rows / light.sum())
    assert center[0] == pytest.approx(float(box[0] + box[2]) / 2, abs=0.35)
    assert center[1] == pytest.approx(float(box[1] + box[3]) / 2, abs=0.35)


def test_the_models_own_preprocessing_is_used_and_its_zero_color_told():
    net = shaken(clip())
    net.visual.preprocess_cfg = {"size": 64, "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "resize_mode": "squash"}
    model = load(net)
    pixels, frame = model.image_encoder.prepare(torch.full((1, 3, 30, 90), 0.8))
    assert frame.resized == frame.network == (64, 64)
    assert torch.allclose(pixels[0, :, 0, 0], torch.tensor([1.5, 2.0, 2.5]))
    assert model.fill == (0.5, 0.4, 0.3)


@pytest.mark.parametrize(
    ("preprocess", "told"),
    [({"crop": 3}, "no setting 'crop'.*interpolation"), (lambda image: image, "settings.*got function"), ({"mode": "L"}, "used")],
)
def test_preprocessing_that_cannot_be_is_refused(preprocess, told):
    with pytest.raises(WhyboxError, match=told):
        load("native", preprocess=preprocess)


# Texts


def read(texts, kind="native", reader=None):
    model = whybox.load(network(kind), tokenizer=reader or tokenizer())
    return model.text_encoder.tokenize(texts, False)


@pytest.mark.parametrize(
    ("text", "tokens", "stand"),
    [
        ("a red ball", ("a", "red", "ball"), ("a", "red", "ball")),
        ("  Two   BLUE\tcubes!!", ("two", "blue", "cubes", "!!"), ("Two", "BLUE", "cubes", "!!")),
        ("it's 3x", ("it", "'s", "3", "x"), ("it", "'s", "3", "x")),
        ("Tom &amp; Ann", ("tom", "&", "ann"), ("Tom", "&", "Ann")),
        ("don\u2019t", ("don", "'", "t"), ("don", "\u2019", "t")),
        ("caf\u00e9 cr\u00c8me", ("caf\u00e9", "cr\u00e8me"), ("caf\u00e9", "cr\u00c8me")),
        ("\ufb01sh", ("fish",), ("\ufb01sh",)),
        ("he sees a a a he", ("he", "sees", "a", "a", "a", "he"), ("he", "sees", "a", "a", "a", "he")),
    ],
)
def test_tokens_and_where_they_stand(text, tokens, stand):
    batch = read([text])
    got = batch.texts[0]
    joined = [[], []]
    # A word that CLIP's vocabulary has in parts is joined again.
    for word, name, (start, end) in zip(got.word_of(), got.tokens, got.spans, strict=True):
        joined[0].append((word, name))
        joined[1].append((word, text[start:end]))
    whole = "".join(name for _, name in joined[0])
    assert whole == "".join(tokens)
    assert "".join(part for _, part in joined[1]) == "".join(stand) or text == "\ufb01sh"
    assert int(batch.words.sum()) == len(got.tokens)
    assert [start for start, _ in got.spans] == sorted(start for start, _ in got.spans)


def test_ids_that_are_marked_are_the_texts_own():
    batch = read(PROMPTS)
    for ids, words, text in zip(batch.inputs, batch.words, PROMPTS, strict=True):
        assert ids[words].tolist() == tokenizer().encode(text)


def test_characters_that_no_vocabulary_has_share_their_place():
    got = read(["a \U0001f9ff \u4e16 z"]).texts[0]
    assert len(got.tokens) > 4
    assert [got.text[start:end] for start, end in got.spans[1:-1]] == ["\U0001f9ff"] * got.tokens.count("\U0001f9ff") + [
        "\u4e16"
    ] * got.tokens.count("\u4e16")
    assert got.words == ("a", "\U0001f9ff", "\u4e16", "z")


def test_what_does_not_fit_is_told():
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen Fifteen  sixteen "
    batch = read([text])
    assert len(batch.texts[0].tokens) == 14
    assert batch.texts[0].cut == "Fifteen  sixteen"
    assert read(["one two"]).texts[0].cut == ""
    assert batch.row.tolist() == [15]


@pytest.mark.parametrize(
    ("kind", "rows", "columns", "full"),
    [("native", [4, 10, 2], 11, 16), ("eos", [4, 10, 2], 11, 16), ("first", [0] * 3, 16, 16), ("last", [15] * 3, 16, 16)]
    + [("coca", [16] * 3, 17, 17)],
)
def test_the_position_that_is_read_and_the_columns(kind, rows, columns, full):
    model = load(kind)
    for padded, expected in ((False, columns), (True, full)):
        batch = model.text_encoder.tokenize(PROMPTS, padded)
        assert batch.row.tolist() == rows
        assert batch.words.shape == (3, expected)
        assert batch.words.sum(1).tolist() == [3, 9, 1]


def test_padding_changes_nothing():
    model = load("native").prompt(PROMPTS)
    trace = model.trace(picture())
    short, long = (model.text_transformer(trace, padded=padded) for padded in (False, True))
    assert torch.allclose(short.embedding, long.embedding, atol=1e-6)
    assert short.tokens[0].shape[1] < long.tokens[0].shape[1]


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["a", ""], "text 2 is empty"),
        (["  \n"], "text 1 is empty"),
        (["a", 3], "text 2 must be a string, got int"),
        (["\ud800"], "text 1 holds half a character"),
        (["&nbsp;"], "text 1, '&nbsp;', is empty once"),
    ],
)
def test_texts_that_say_nothing_are_refused(texts, told):
    with pytest.raises(WhyboxError, match=told):
        load("native").prompt(texts)


@pytest.mark.parametrize(
    ("original", "cleaned"),
    [("A b", "a b"), ("a,b; c", "ab c"), ("\u0130x", "i\u0307x"), ("&lt;&lt;a", "<<a"), ("x  " * 400, ("y " * 400).strip())],
)
def test_every_character_of_a_cleaned_text_has_a_place(original, cleaned):
    places = align(original, cleaned)
    assert len(places) == len(cleaned)
    assert all(0 <= start < end <= len(original) for start, end in places)
    assert all(original[start:end].strip() for start, end in places)
    assert [start for start, _ in places] == sorted(start for start, _ in places)


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    """A folder with a fast tokenizer of few words, as BERT's: [CLS] words [SEP], and a tiny BERT's configuration."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "ball", "##s", "left", "of", "tree"]
    fast = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    fast.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = tmp_path_factory.mktemp("words")
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, **special).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertConfig(vocab_size=len(words), max_position_embeddings=12, **sizes).save_pretrained(folder)
    return folder


def test_a_hugging_face_tokenizer_is_followed_by_its_offsets(word_pieces):
    reader = open_clip.tokenizer.HFTokenizer(str(word_pieces), context_length=8, clean="canonicalize")
    net = clip(text={"vocab_size": 11, "context_length": 8, "pool_type": "last", "no_causal_mask": True}, kind=CustomTextCLIP)
    model = whybox.load(net, tokenizer=reader)
    batch = model.text_encoder.tokenize(["A red, BALLS!", "a ball left of a red tree"], False)
    assert batch.texts[0].tokens == ("a", "red", "ball", "s")
    assert batch.texts[0].spans == ((0, 1), (2, 5), (7, 11), (11, 12))
    assert batch.texts[0].words == ("A", "red,", "BALLS!")
    assert batch.words[0].tolist() == [False, True, True, True, True, False, False, False]
    assert batch.texts[1].cut == "tree"
    with pytest.raises(WhyboxError, match="text 2, '!!', is empty once the tokenizer has cleaned it"):
        model.prompt(["a", "!!"])


def test_a_text_tower_of_hugging_face_answers_but_is_not_taken_apart(word_pieces):
    named = {"hf_model_name": str(word_pieces), "hf_model_pretrained": False, "hf_proj_type": "linear"}
    net = CustomTextCLIP(24, VISION, {**named, "hf_pooler_type": "cls_pooler"}).eval()
    reader = open_clip.tokenizer.HFTokenizer(str(word_pieces), context_length=8)
    model = whybox.load(net, tokenizer=reader).prompt(["a red ball", "a tree"])
    trace = model.trace(picture())
    with torch.no_grad():
        theirs = net.encode_image(model.image_encoder.prepare(picture()[None])[0], normalize=True)
        theirs = theirs @ net.encode_text(reader(["a red ball", "a tree"]), normalize=True).T
    assert torch.allclose(trace.candidates.scores, theirs, atol=1e-5)
    with pytest.raises(WhyboxError, match="no text encoder that can be run layer by layer"):
        model.text_transformer(trace)
    with pytest.raises(WhyboxError, match="tokenizer=open_clip"):
        whybox.load(net)


@pytest.mark.parametrize(
    ("reader", "told"),
    [
        (lambda: str.split, "SimpleTokenizer, or its HFTokenizer.*got method_descriptor"),
        (lambda: open_clip.SimpleTokenizer(reduction_mask="random"), "at random"),
    ],
)
def test_tokenizers_that_cannot_be_followed_are_refused(reader, told):
    with pytest.raises(WhyboxError, match=told):
        whybox.load(network("native"), tokenizer=reader())


@pytest.mark.parametrize("kind", ["native", "beside", "coca"])
def test_without_a_tokenizer_clips_own_is_taken_where_the_vocabulary_is_clips(kind):
    ours, theirs = whybox.load(network(kind)).prompt(PROMPTS), load(kind).prompt(PROMPTS)
    assert ours.texts == theirs.texts
    assert torch.equal(ours.trace(picture()).candidates.scores, theirs.trace(picture()).candidates.scores)


def test_a_vocabulary_that_is_not_the_tokenizers_is_told():
    net = clip(text={"vocab_size": 1000})
    with pytest.raises(WhyboxError, match="does not have CLIP's vocabulary of 49408 tokens"):
        whybox.load(net)
    with pytest.raises(WhyboxError, match="gives the id 49407, and CLIP knows 1000"):
        load(net).prompt(["a red ball"])


def test_a_tokenizer_whose_calls_give_other_ids_is_refused():
    reader = open_clip.SimpleTokenizer(context_length=16)

    class Other(type(reader)):
        def __call__(self, texts, context_length=None):
            return super().__call__(texts, context_length).flip(1)

    with pytest.raises(WhyboxError, match="pieces of 'a red ball' are not in"):
        whybox.load(network("native"), tokenizer=Other()).prompt(["a red ball"])


# The module


@pytest.mark.parametrize("kind", ["native", "resnet", "siglip", "coca"])
def test_a_module_in_training_is_left_so(kind):
    net = network(kind)
    net.train()
    try:
        model = load(kind).prompt(PROMPTS)
        before = {name: value.clone() for name, value in net.state_dict().items()}
        trace = model.trace(picture())
        list(model.pullbacks(trace, trace.detections, None, "auto"))
        assert all(part.training for part in net.modules())
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert all(weight.grad is None for weight in net.parameters())
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    finally:
        net.eval()


@pytest.mark.parametrize("layer", ["tokens", "blocks[0]", "visual.transformer.resblocks.0", "input"])
@pytest.mark.parametrize("size", [None, (96, 32)])
def test_a_layers_gradient_is_the_slope_of_the_score(layer, size):
    model = load("native", size=size).prompt(PROMPTS)
    trace = model.trace(picture(96, 64))
    found = trace.detections[1]
    way = next(model.pullbacks(trace, found, layer, "exact"))
    gradient = way.gradient(ClassScore()).gradient
    height, width = trace.frame.network
    assert gradient.shape[-2:] == ((height, width) if layer == "input" else (height // 16, width // 16))
    assert gradient.any()
    if layer == "input":
        step = 1e-3 * gradient / gradient.norm()
        with torch.no_grad():
            pixels, _ = model.image_encoder.prepare(picture(96, 64)[None])
            up, down = (model._candidates(model.image_encoder.embed(pixels + s), trace.frame) for s in (step, -step))
        slope = (up.scores - down.scores)[0, 1] / 2e-3
        assert slope == pytest.approx(float(gradient.norm()), rel=0.02)


def in_half(kind, dtype):
    torch.manual_seed(0)
    return shaken(KINDS[kind]()).eval().to(dtype)


@pytest.mark.parametrize("size", [None, "keep"])
def test_open_clips_own_mixture_of_half_and_full_precision(size):
    torch.manual_seed(0)
    net = shaken(clip(cast_dtype=torch.float16)).eval()
    full = whybox.explain(load(net, size=size), picture(80, 64), text=PROMPTS)
    convert_weights_to_lp(net, torch.float16)
    kinds = {name: weight.dtype for name, weight in net.named_parameters()}
    assert set(kinds.values()) == {torch.float16, torch.float32}
    half = whybox.explain(load(net, size=size), picture(80, 64), text=PROMPTS, words=True)
    assert torch.allclose(half.detections.scores, full.detections.scores, atol=5e-3)
    assert torch.allclose(half.maps.values, full.maps.values, atol=0.05 * float(full.maps.values.max()))
    assert half.tokens[0]
    assert {name: weight.dtype for name, weight in net.named_parameters()} == kinds


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["native", "custom", "coca", "resnet", "siglip", "eva"])
@pytest.mark.parametrize("size", [None, (96, 32)])
def test_half_precision_is_explained_in_float32(kind, dtype, size):
    net = in_half(kind, dtype)
    weights = {name: value.data_ptr() for name, value in net.named_parameters()}
    model = load(net, size=size).prompt(PROMPTS)
    trace = model.trace(picture())
    assert trace.embedding.dtype == dtype
    for layer in (None, "input"):
        way = next(model.pullbacks(trace, trace.detections[0], layer, "auto"))
        gradient = way.gradient(ClassScore()).gradient
        assert gradient.dtype == torch.float32
        assert gradient.any()
    assert {name: value.data_ptr() for name, value in net.named_parameters()} == weights


def test_half_precision_gives_the_maps_of_the_same_weights_in_full():
    half = in_half("native", torch.bfloat16)
    full = clip().eval()
    full.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    maps = [whybox.explain(load(net), picture(), text="a red ball").maps.values[0] for net in (half, full)]
    assert torch.corrcoef(torch.stack([one.flatten() for one in maps]))[0, 1] > 0.95


@pytest.mark.parametrize("kind", ["native", "custom", "mean", "coca", "resnet", "siglip", "timm_token"])
def test_explain_gives_maps_of_images_and_texts(kind):
    result = whybox.explain(load(kind), picture(80, 120), text=PROMPTS)
    assert result.maps.at_image().shape == (3, 80, 120)
    assert result.maps.values.isfinite().all()
    assert result.maps.values.any()
    if kind not in ("resnet", "siglip"):  # their crops are those of the others
        assert not result.maps.at_image()[:, :, :10].any()  # cut off by the crop of a wide image


@pytest.mark.parametrize("kind", ["native", "custom", "beside", "last", "coca"])
def test_every_token_of_a_text_has_a_value(kind):
    result = whybox.explain(load(kind, size="keep"), picture(80, 120), text=PROMPTS, words=True)
    assert [len(tokens) for tokens in result.tokens] == [3, 9, 1]
    values = torch.tensor([value for tokens in result.tokens for _, value in tokens])
    assert values.isfinite().all()
    assert values.any()


# Names and refusals


def test_a_module_is_known_by_its_type():
    class Own(CustomTextCLIP):
        pass

    assert family.matches(network("native"))
    assert family.matches(network("coca"))
    assert family.matches(Own(24, VISION, TEXT))
    assert not family.matches(network("native").visual)
    assert not family.matches(torch.nn.Linear(1, 1))


@pytest.fixture
def tiny_config(tmp_path, monkeypatch):
    """open_clip knows a tiny architecture under the name "tiny-clip"."""
    (tmp_path / "tiny-clip.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}))
    from open_clip import factory

    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(factory, "_MODEL_CONFIGS", dict(factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"


def test_a_name_gives_a_model_with_random_weights_or_those_of_a_file(tiny_config, tmp_path):
    model = whybox.load("open_clip/tiny-clip", weights=None, size="keep")
    assert model.name == "open_clip/tiny-clip"
    assert model.prompt(PROMPTS).trace(picture()).candidates.scores.shape == (1, 3)
    save_file({name: value.contiguous() for name, value in network("native").state_dict().items()}, tmp_path / "own.safetensors")
    filled = whybox.load("open_clip/tiny-clip", weights=tmp_path / "own.safetensors")
    ours = filled.prompt(PROMPTS).trace(picture()).candidates.scores
    assert torch.allclose(ours, load("native").prompt(PROMPTS).trace(picture()).candidates.scores, atol=1e-6)


def test_a_local_folder_is_loaded_with_its_weights_and_preprocessing(tmp_path):
    cfg = {"model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT}}
    cfg["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.25] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(cfg))
    weights = {name: value.contiguous() for name, value in network("native").state_dict().items()}
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    model = whybox.load(f"open_clip/local-dir:{tmp_path}")
    assert model.fill == (0.5, 0.5, 0.5)
    ours = model.prompt(PROMPTS).trace(picture(30, 90))
    same = load("native", preprocess=cfg["preprocess_cfg"]).prompt(PROMPTS).trace(picture(30, 90))
    assert ours.frame == same.frame
    assert torch.allclose(ours.candidates.scores, same.candidates.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "weights", "expected"),
    [
        ("ViT-B-16", "default", ("ViT-B-16", "openai", True)),
        ("ViT-B/16", "default", ("ViT-B-16", "openai", True)),
        ("ViT-B/16/laion2b_s34b_b88k", "default", ("ViT-B-16", "laion2b_s34b_b88k", False)),
        ("ViT-B-16", "laion2b_s34b_b88k", ("ViT-B-16", "laion2b_s34b_b88k", False)),
        ("ViT-H-14", "default", ("ViT-H-14", "laion2b_s32b_b79k", False)),
        ("hf-hub:owner/name", "default", ("hf-hub:owner/name", None, None)),
    ],
)
def test_a_name_says_which_weights(monkeypatch, name, weights, expected):
    asked = []

    def create(kind, tag=None, **settings):
        asked.append((kind, tag, settings.get("force_quick_gelu")))
        raise OSError("no connection\nat all")

    monkeypatch.setattr(open_clip, "create_model", create)
    with pytest.raises(WeightsError, match=r"could not be had.*\(no connection\)$"):
        family.build(name, weights)
    assert asked == [expected]


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        ("ViT-B-61", "default", "did you mean.*ViT-B-16"),
        ("ViT-B-16/laion2b", "default", "tag of ViT-B-16's weights 'laion2b'.*laion2b_s34b_b88k"),
        ("ViT-B-16", "opena", "did you mean openai"),
        ("nothing/like/this", None, "unknown open_clip model"),
    ],
)
def test_unknown_names_are_told_with_close_ones(name, weights, told):
    with pytest.raises(UnknownNameError, match=told):
        whybox.load(f"open_clip/{name}", weights=weights)


def test_names_without_published_weights_or_with_too_many_are_refused():
    with pytest.raises(WeightsError, match="no published weights"):
        family.build("ViT-B-16-plus")
    with pytest.raises(WeightsError, match="takes its own weights"):
        family.build("hf-hub:owner/name", "openai")


@pytest.mark.parametrize(
    ("vision", "told"),
    [
        ({"attentional_pool": "parallel"}, "pools by 'parallel'"),
        ({"pool_type": "none"}, "pools by 'none'"),
        ({**POOLED, "pool_type": "avg"}, "pools by 'avg'"),
        (timm_vision("tiny_eva_rotary"), "Eva with rotary"),
        (timm_vision("tiny_pool_behind_token"), "AttentionPoolLatent behind class tokens"),
        (timm_vision("resnet18", timm_pool="avg"), "timm's ResNet"),
        (timm_vision("tiny_parallel"), "of ParallelThingsBlock"),
        pytest.param(timm_vision("tiny_gated"), "a gate", marks=NEEDS_GATES),
    ],
)
def test_towers_that_are_not_known_are_refused_in_one_line(vision, told):
    with pytest.raises(WhyboxError, match=told):
        load(clip(vision))


# The same weights in transformers


def in_transformers(net):
    """transformers' CLIP with the weights of an open_clip CLIP, and CLIP's tokenizer in its form."""
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    sizes = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_act": "gelu"}
    vision = {**sizes, "image_size": 64, "patch_size": 16}
    text = {**sizes, "vocab_size": 49408, "max_position_embeddings": 16, **ids}
    made = transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=24))
    ours, theirs = net.state_dict(), {"logit_scale": net.logit_scale.detach()}
    theirs["visual_projection.weight"] = ours["visual.proj"].T
    theirs["text_projection.weight"] = ours["text_projection"].T
    theirs["vision_model.embeddings.class_embedding"] = ours["visual.class_embedding"]
    theirs["vision_model.embeddings.patch_embedding.weight"] = ours["visual.conv1.weight"]
    theirs["vision_model.embeddings.position_embedding.weight"] = ours["visual.positional_embedding"]
    theirs["text_model.embeddings.token_embedding.weight"] = ours["token_embedding.weight"]
    theirs["text_model.embeddings.position_embedding.weight"] = ours["positional_embedding"]
    names = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    names["ln_final"] = "text_model.final_layer_norm"
    for tower, name in (("visual.transformer", "vision_model"), ("transformer", "text_model")):
        for i in range(2):
            block, layer = f"{tower}.resblocks.{i}", f"{name}.encoder.layers.{i}"
            names |= {f"{block}.ln_1": f"{layer}.layer_norm1", f"{block}.ln_2": f"{layer}.layer_norm2"}
            names |= {f"{block}.mlp.c_fc": f"{layer}.mlp.fc1", f"{block}.mlp.c_proj": f"{layer}.mlp.fc2"}
            names[f"{block}.attn.out_proj"] = f"{layer}.self_attn.out_proj"
            for kind in ("weight", "bias"):
                parts = zip("qkv", ours[f"{block}.attn.in_proj_{kind}"].chunk(3), strict=True)
                theirs |= {f"{layer}.self_attn.{part}_proj.{kind}": value for part, value in parts}
    theirs |= {f"{new}.{kind}": ours[f"{old}.{kind}"] for old, new in names.items() for kind in ("weight", "bias")}
    left = made.load_state_dict(theirs, strict=False)
    assert not left.unexpected_keys
    assert all("position_ids" in key for key in left.missing_keys)
    special = {"bos_token": "<start_of_text>", "eos_token": "<end_of_text>", "pad_token": "<end_of_text>"}
    words = tokenizer()
    vocabulary, merges = dict(words.encoder), list(words.bpe_ranks)
    reader = hf_versions.clip_tokenizer(vocabulary, merges, unk_token="<end_of_text>", model_max_length=16, **special)
    return made.eval(), reader


SAID = [*PROMPTS, "  Two   GREEN trees!!", "it's 3x the caf\u00e9's \U0001f9ff"]


def test_the_same_weights_in_transformers_give_the_same_scores_maps_and_places():
    net, reader = in_transformers(network("native"))
    ours, theirs = load("native"), whybox.load(net, tokenizer=reader)
    one, other = (whybox.explain(model, picture(), text=SAID, words=True) for model in (ours, theirs))
    assert torch.allclose(one.detections.scores, other.detections.scores, atol=1e-5)
    assert one.maps.values.any()
    assert torch.allclose(one.maps.values, other.maps.values, rtol=1e-3, atol=1e-5)
    for own, same in zip(one.tokens, other.tokens, strict=True):
        assert [value for _, value in own] == pytest.approx([value for _, value in same], rel=1e-3, abs=1e-6)
    for text, same in zip(ours.prompt(SAID).texts, theirs.prompt(SAID).texts, strict=True):
        assert text.spans == same.spans
        assert text.words == same.words
