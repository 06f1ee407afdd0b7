"""Hugging Face's detectors that read text, held to their processors, to autograd, and to their texts."""

import pickle

import pytest
import torch

import whybox
from models.hf_versions import needs
from models.prompted_models import BUILDERS, SHAPE, TEXTS, grounding, owl, prompted_pair
from whybox.duplicates import with_nms
from whybox.errors import GradientError, WhyboxError
from whybox.methods.odam import Odam, odam_map
from whybox.model import PromptedModel
from whybox.targets import ClassLogit, ClassScore, find_target

FAMILIES = [pytest.param(family, marks=needs(family)) for family in BUILDERS]
LEVELS = ["grounding_dino", "omdet_turbo"]


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture
def picture():
    return torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1))


def loaded(family, texts=TEXTS, **options):
    net, processor = prompted_pair(family)
    model = whybox.load(net, processor=processor, **options)
    return model.prompt(texts) if texts else model


def inputs_of(processor, picture, texts=TEXTS, count=1):
    eight = (picture * 255).round().to(torch.uint8)
    return processor(images=[eight] * count, text=[list(texts)] * count, return_tensors="pt", input_data_format="channels_first")


def own_output(net, processor, picture, texts=TEXTS):
    """As a user of transformers runs it."""
    with torch.no_grad():
        return net(**inputs_of(processor, picture, texts))


def post_processed(processor, output, family, **options):
    if family != "omdet_turbo" and "grounding" not in family:
        options["text_labels"] = [TEXTS]
    return processor.post_process_grounded_object_detection(output, target_sizes=[SHAPE], **options)[0]


def test_it_is_a_prompted_detector(family):
    model = loaded(family)
    assert isinstance(model, PromptedModel)
    assert (model.kind, model.default_method, model.classes) == ("prompted detector", "odam", TEXTS)
    assert repr(loaded(family, None)).startswith(f"<hf/{family}: prompted detector, 0 texts")


@pytest.mark.parametrize("threshold", [None, 0.5])
def test_detections_are_the_processors(family, picture, threshold):
    net, processor = prompted_pair(family)
    options = {} if threshold is None else {"threshold": threshold}
    theirs = post_processed(processor, own_output(net, processor, picture), family, **options)
    ours = loaded(family, score_threshold=threshold).trace(picture).detections
    best = own_output(net, processor, picture)
    assert len(ours)
    if "grounding" in family:
        # Where [CLS] or [SEP] has the highest score, the processor's detection is of no phrase.
        tokens = best.logits[0].argmax(-1)
        phrases = (tokens > 0) & (tokens < len(best.input_ids[0]) - 1)
        kept = best.logits[0].sigmoid().amax(-1) > (0.25 if threshold is None else threshold)
        theirs = {key: theirs[key][phrases[kept]] for key in ("boxes", "scores")}
        agrees = phrases[ours.source]
        torch.testing.assert_close(ours.boxes[agrees], theirs["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(ours.scores[agrees], theirs["scores"], rtol=1e-4, atol=1e-5)
        return
    torch.testing.assert_close(ours.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours.scores, theirs["scores"], rtol=1e-4, atol=1e-5)
    assert ours.labels.tolist() == theirs["labels"].tolist()


@pytest.mark.parametrize("family", ["grounding_dino"])
def test_the_phrase_of_a_detection_is_that_of_its_best_token(family, picture):
    net, processor = prompted_pair(family)
    output = own_output(net, processor, picture)
    trace = loaded(family).trace(picture)
    # [CLS] a red ball . a big blue dog . [SEP]
    spans = torch.tensor([[1, 5], [5, 10]])
    for label, (start, end) in enumerate(spans.tolist()):
        largest = output.logits[0, :, start:end].amax(-1)
        torch.testing.assert_close(trace.candidates.logits[:, label], largest, rtol=1e-4, atol=1e-4)
    decoded = processor.decode(output.input_ids[0, 5:9])
    assert decoded == TEXTS[1]


def test_the_map_is_odam_by_autograd_through_the_networks_own_forward(family, picture):
    net, processor = prompted_pair(family)
    model = loaded(family)
    layer = model._reader.paths()[model.layers[0]][0]
    kept = []

    def watch(part, args, output):
        tensor = output[-1][0] if "backbone" in layer and isinstance(output[-1], tuple) else output
        tensor = tensor[-1] if isinstance(tensor, (list, tuple)) else tensor
        tensor.requires_grad_() if tensor.is_leaf else tensor.retain_grad()
        kept.append(tensor)

    trace = model.trace(picture)
    found = trace.detections[:3]
    handle = net.get_submodule(layer).register_forward_hook(watch)
    # The image twice: of one image torch's own gradient is wrong in OmDet-Turbo's neck (whybox.ops.graphs).
    output = net(**inputs_of(processor, picture, count=2))
    handle.remove()
    logits, _ = model._reader.answer(output, model._prompt)
    (features,) = kept
    maps = []
    for row, label in zip(found.source.tolist(), found.labels.tolist(), strict=True):
        (gradient,) = torch.autograd.grad(logits[0, row, label].sigmoid(), features, retain_graph=True)
        product = (gradient * features.detach())[0]
        if features.ndim == 3:
            height, width = 4, 4
            maps.append(product[1:].sum(-1).reshape(height, width).relu())
        else:
            maps.append(odam_map(features.detach()[0], gradient[:1])[0])
    result = whybox.explain(model, trace, detections=found)
    assert set(result.maps.routes) == {"exact"}
    expected = torch.stack(maps)
    assert expected.any()
    torch.testing.assert_close(result.maps.values, expected, rtol=1e-3, atol=1e-4 * float(expected.max()))


def test_every_layer_gives_maps(family, picture):
    model = loaded(family)
    trace = model.trace(picture)
    for layer in model.layers:
        result = whybox.explain(model, trace, layer=layer, score_threshold=0, top=3)
        assert result.maps.values.any(), layer
    with pytest.raises(WhyboxError, match="unknown layer 'neck'"):
        whybox.explain(model, trace, layer="neck", score_threshold=0)


@pytest.mark.parametrize("family", LEVELS)
def test_one_level_may_be_chosen(family, picture):
    model = loaded(family)
    assert set(whybox.explain(model, picture, layer="levels[1]", score_threshold=0, top=2).maps.layers) == {"levels[1]"}


def test_a_side_and_a_contrast_are_explained(family, picture):
    model = loaded(family)
    trace = model.trace(picture)
    found = trace.detections[:2]
    for target in ("x1", "logit", "combined"):
        assert whybox.explain(model, trace, detections=found, target=target, layer="input").maps.values.any(), target
    other = TEXTS[1 - int(found.labels[0])]
    value = find_target(f"contrast:{other}", model.classes)(trace)
    logits = trace.candidates.logits
    row = int(trace.detections.source[0])
    assert value[0] == logits[row, found.labels[0]] - logits[row, 1 - found.labels[0]]
    assert len(whybox.explain(model, trace, detections=found[:1], target=f"contrast:{other}").maps) == 1


def test_a_batch_gives_what_single_images_give(family, picture):
    model = loaded(family)
    images = torch.stack([picture, picture.flip(-1)])
    for batched, image in zip(model.predict(images), images, strict=True):
        alone = model.trace(image).candidates
        torch.testing.assert_close(batched.scores, alone.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(batched.boxes, alone.boxes, rtol=1e-3, atol=1e-2)
    assert model.predict(images[:0]) == []


def test_texts_belong_to_the_pass(family, picture):
    """A trace of other texts is made again, or refused; never read with the wrong columns."""
    first, second = loaded(family, None).prompt(["a tree"]), None
    second = first.prompt(TEXTS)
    assert first.classes == ["a tree"], "prompting leaves the model as it is"
    old = first.trace(picture)
    again, new = second.answer(old), second.trace(picture)
    assert torch.equal(again.candidates.scores, new.candidates.scores)
    assert second.answer(new) is new
    later = whybox.explain(second, old, score_threshold=0, top=2)
    assert torch.equal(later.maps.values, whybox.explain(second, picture, score_threshold=0, top=2).maps.values)
    with pytest.raises(WhyboxError, match="made with other texts"):
        list(second.pullbacks(old, new.detections[:1], None, "auto"))
    with pytest.raises(WhyboxError, match="made with other texts"):
        second.token_values(old, new.detections[:1], [ClassScore()])


# The others read the texts together, where their order counts.
@pytest.mark.parametrize("family", ["owlvit", "owlv2"])
def test_the_order_of_texts_is_that_of_the_columns(family, picture):
    one, other = (loaded(family, texts).trace(picture).candidates for texts in (TEXTS, TEXTS[::-1]))
    torch.testing.assert_close(one.scores, other.scores.flip(1), rtol=1e-4, atol=1e-6)


def by_hand(family, picture, found):
    """Gradient x embedding of the tokens, through the network as a user runs it."""
    net, processor = prompted_pair(family)
    model = loaded(family)
    kept = []

    def watch(part, args, output):
        if not kept:
            output = output.detach().requires_grad_()
            kept.append(output)
        return output

    ends = ("text_model.embeddings", "text_backbone.embeddings", "language_backbone.model.embeddings")
    encoder = [part for name, part in net.named_modules() if name.endswith(ends)]
    (embeddings,) = encoder
    handle = embeddings.register_forward_hook(watch)
    logits, _ = model._reader.answer(net(**inputs_of(processor, picture)), model._prompt)
    handle.remove()
    rows = []
    for row, label in zip(found.source.tolist(), found.labels.tolist(), strict=True):
        (gradient,) = torch.autograd.grad(logits[0, row, label], kept[0], retain_graph=True)
        shares = (gradient * kept[0].detach()).sum(-1)
        count = len(TEXTS[label].split())
        first = 1 if label == 0 or "grounding" not in family else 5
        rows.append(shares[0 if "grounding" in family else label][first : first + count])
    return rows


def test_words_are_gradient_times_embedding(family, picture):
    model = loaded(family)
    trace = model.trace(picture)
    found = trace.detections[:3]
    result = whybox.explain(model, trace, detections=found, target="logit", words=True)
    for words, expected, name in zip(result.words, by_hand(family, picture, found), result.names, strict=True):
        assert [word for word, _ in words] == name.split()
        values = torch.tensor([value for _, value in words])
        assert values.any()
        torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("family", ["owlvit", "omdet_turbo"])
def test_the_shares_add_up_to_the_derivative_by_scaling_the_words(family, picture):
    """Gradient x input, summed: how fast the score grows when the embeddings of the text's tokens grow together."""
    model = loaded(family)
    model.network.double()
    trace = model.trace(picture)
    found = trace.detections[:1]
    (shares,) = model.token_values(trace, found, [ClassLogit()])[0]
    row, places = model._prompt.places[int(found.labels)]
    step, logits = 1e-4, []
    for factor in (1 + step, 1 - step):
        runs = []

        def scale(part, args, output, factor=factor, runs=runs):
            runs.append(True)
            if len(runs) > 1:
                return output
            output = output.clone()
            output[row, places] *= factor
            return output

        handle = model._reader.embeddings().register_forward_hook(scale)
        with torch.no_grad(), model._reader.running():
            candidates = model._forward(picture[None])[0][0]
        handle.remove()
        logits.append(float(candidates.logits[found.source, found.labels]))
    expected = (logits[0] - logits[1]) / (2 * step)
    assert float(shares.sum()) == pytest.approx(expected, rel=2e-2, abs=1e-4 * float(shares.abs().max()) + 1e-9)


def test_of_boxes_that_do_not_depend_on_the_texts_the_words_weigh_nothing(picture):
    result = whybox.explain(loaded("owlvit"), picture, target="x1", score_threshold=0, top=2, words=True)
    assert [weight for words in result.words for _, weight in words] == [0] * sum(len(name.split()) for name in result.names)


def test_words_are_saved(family, picture, tmp_path):
    result = whybox.explain(loaded(family), picture, score_threshold=0, top=2, words=True)
    read = whybox.Explanation.load(result.save(tmp_path / "out"))
    assert read.words == result.words
    assert [text.text for text in read.texts] == list(result.names)


def test_single_words_and_combined_words_are_refused(picture):
    model = loaded("owlvit")
    with pytest.raises(WhyboxError, match="ask about single words as texts"):
        whybox.explain(model, picture, single_words=True)
    with pytest.raises(WhyboxError, match="one target at a time"):
        whybox.explain(model, picture, target="combined", words=True)


def test_nothing_is_left_on_the_network(family, picture):
    net, processor = prompted_pair(family)
    net.train()
    before = {name: (part.training, dict(part._forward_hooks), set(vars(part))) for name, part in net.named_modules()}
    flags = [weight.requires_grad for weight in net.parameters()]
    caches = [getattr(net, name, None) for name in ("language_cache_class", "language_cache_prompt")]
    whybox.explain(whybox.load(net, processor=processor), picture, text=TEXTS, score_threshold=0, top=2, words=True)
    after = {name: (part.training, dict(part._forward_hooks), set(vars(part))) for name, part in net.named_modules()}
    assert after == before
    assert [weight.requires_grad for weight in net.parameters()] == flags
    for cache, name in zip(caches, ("language_cache_class", "language_cache_prompt"), strict=True):
        assert getattr(net, name, None) is cache
        assert cache is None or not cache.cache


def test_changed_weights_change_the_texts(picture):
    """OmDet-Turbo keeps the embeddings of texts, also those of older weights."""
    net, processor = prompted_pair("omdet_turbo")
    model = whybox.load(net, processor=processor).prompt(TEXTS)
    own_output(net, processor, picture)
    before = model.trace(picture).candidates.scores
    with torch.no_grad():
        net.language_backbone.text_projection.mul_(-1)
    assert not torch.allclose(model.trace(picture).candidates.scores, before, atol=1e-3)


def test_it_explains_after_a_pass_under_inference_mode(family, picture):
    net, processor = prompted_pair(family)
    with torch.inference_mode():
        net(**inputs_of(processor, picture))
    result = whybox.explain(whybox.load(net, processor=processor), picture, text=TEXTS, score_threshold=0, top=2, words=True)
    assert len(result) == 2


def test_a_loss_on_maps_reaches_the_weights(family, picture):
    model = loaded(family)
    trace = model.trace(picture, differentiable=True)
    found = trace.detections[:1]
    maps = Odam()(model, trace, found, [ClassScore()])[0]
    maps.native[0].sum().backward()
    assert any(weight.grad is not None and weight.grad.any() for weight in model.network.parameters())


def test_texts_with_full_stops_are_phrases():
    model = loaded("grounding_dino", None)
    assert model.prompt(["A Red ball. a tree."]).classes == ["A Red ball", "a tree"]
    assert model.prompt(["a ball", "a tree"])._prompt.inputs["input_ids"].shape[1] == 8
    assert loaded("owlvit", ["a red ball. a tree"]).classes == ["a red ball. a tree"]


def test_words_that_the_vocabulary_lacks_are_noted(picture):
    result = whybox.explain(loaded("grounding_dino", None), picture, text=["a zebra"], score_threshold=0, top=1)
    assert result.notes[0] == "not in the model's vocabulary: 'zebra'"


LONG = " ".join(["a red ball"] * 40)


def test_texts_that_cannot_be_read_are_one_line(family, picture):
    model = loaded(family, None)
    with pytest.raises(WhyboxError, match="finds boxes for texts: say which"):
        whybox.explain(model, picture)
    with pytest.raises(WhyboxError, match="finds boxes for texts: say which"):
        model.trace(picture)
    with pytest.raises(WhyboxError, match="a text is empty"):
        whybox.explain(model, picture, text=["a tree", " "])
    with pytest.raises(WhyboxError, match=r"shorten it|fewer or shorter"):
        whybox.explain(model, picture, text=LONG)
    with pytest.raises(WhyboxError, match="takes no embedding"):
        whybox.explain(model, picture, text=torch.rand(32))


def test_other_mistakes_are_one_line(picture):
    net, processor = owl("OwlViT")
    with pytest.raises(WhyboxError, match="comes without a tokenizer"):
        whybox.load(net, processor=processor.image_processor)
    with pytest.raises(WhyboxError, match="has texts for its classes"):
        whybox.load(net, processor=processor).classes = ["a"]
    with pytest.raises(WhyboxError, match="no words between its full stops"):
        loaded("grounding_dino", [" . "])
    with pytest.raises(WhyboxError, match="unknown route"):
        whybox.explain(loaded("owlvit"), picture, route="fast", score_threshold=0)
    with pytest.raises(GradientError, match="is of the text"):
        whybox.explain(loaded("grounding_dino"), picture, layer="model.text_projection", score_threshold=0)


def test_images_of_another_size_than_the_networks():
    net, processor = owl("OwlViT", size=(96, 96))
    picture = torch.rand(3, *SHAPE)
    model = whybox.load(net, processor=processor)
    result = whybox.explain(model, picture, text=TEXTS, score_threshold=0, top=2)
    assert result.maps.values.shape[-2:] == (6, 6)


def test_the_map_of_a_padded_square_is_cropped(picture):
    """OWLv2 pads to a square: the rows of the map below the image are no part of it."""
    model = loaded("owlv2")
    frame = model.trace(picture).frame
    assert (frame.network, frame.resized) == ((64, 64), (42, 64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(family, picture, dtype):
    net, processor = prompted_pair(family)
    model = whybox.load(net.to(dtype), processor=processor)
    result = whybox.explain(model, picture, text=TEXTS, score_threshold=0, top=2, words=True)
    assert result.maps.values.isfinite().all()
    assert result.detections.boxes.dtype == torch.float32


def test_a_drawn_box_is_explained_with_its_words(family, picture):
    drawn = {"boxes": [[5, 5, 40, 40]], "labels": [TEXTS[1]]}
    for method in ("odam", "drise:masks=4"):
        result = whybox.explain(loaded(family), picture, method=method, detections=drawn, words=True)
        assert result.notes[0].startswith("best candidate: IoU")
        assert [word for word, _ in result.words[0]] == TEXTS[1].split()


def test_another_rule_of_duplicate_removal(family, picture):
    model = with_nms(loaded(family, None), "greedy", iou_threshold=0.3)
    result = whybox.explain(model, picture, text=TEXTS, score_threshold=0, top=2, words=True)
    assert len(result.words) == len(result) > 0


def test_it_is_pickled(family, picture):
    model = pickle.loads(pickle.dumps(loaded(family)))
    assert model.classes == TEXTS
    assert len(model.trace(picture).detections)


def test_it_is_loaded_from_a_folder(family, picture, tmp_path):
    net, processor = prompted_pair(family)
    net.save_pretrained(tmp_path / "net")
    processor.save_pretrained(tmp_path / "net")
    model = whybox.load(f"hf/{tmp_path / 'net'}").prompt(TEXTS)
    torch.testing.assert_close(model.trace(picture).candidates.scores, loaded(family).trace(picture).candidates.scores)
    assert type(whybox.load(str(tmp_path / "net"))) is type(model)
    fresh = whybox.load(f"hf/{tmp_path / 'net'}", weights=None)
    assert fresh.prompt(TEXTS).classes == TEXTS


def test_a_long_task_is_cut_as_the_processor_cuts_it(picture):
    net, processor = prompted_pair("omdet_turbo")
    texts = [f"a {color} {thing}" for color in ("red", "blue", "big", "left", "of") for thing in ("ball", "tree", "dog", "photo")]
    theirs = inputs_of(processor, picture, texts)
    ours = whybox.load(net, processor=processor).prompt(texts)._prompt.inputs
    assert theirs["tasks_attention_mask"].all(), "the task is longer than the context"
    for key, values in ours.items():
        assert torch.equal(values, theirs[key]), key


def test_grounding_reads_as_its_processor(picture):
    net, processor = grounding("GroundingDino")
    theirs = processor(images=[(picture * 255).to(torch.uint8)], text=[["A Red Ball", " a dogs "]], return_tensors="pt")
    ours = whybox.load(net, processor=processor).prompt(["A Red Ball", " a dogs "])
    for key, values in ours._prompt.inputs.items():
        assert torch.equal(values, theirs[key]), key
    assert ours.texts[1].tokens == ("a", "dog", "s")
    assert ours.texts[1].words == ("a", "dogs")
