"""A feature for every patch of an image, in the space where a contrastive model compares images with texts."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from whybox.attention import TransformerPass
from whybox.ops.transformer import in_float32, modules_from


def dense_features(passed: TransformerPass) -> Tensor:
    """(h*w,D): what the model would read at each patch if its last layer had no attention: values, output projection,
    residual and MLP where the layer has them, and the head. In float32; gradients pass.

    Source: Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
    """
    last = len(passed.transformer.layers) - 1
    layer, tokens = passed.transformer.layers[last], passed.tokens[last].float()
    with in_float32(*modules_from(passed.transformer, last)):
        _, _, values = layer.project(tokens)
        return read_patches(passed, layer.finish(tokens, layer.out(layer.mix(values))))


def key_similarity(passed: TransformerPass) -> Tensor:
    """cos(k_CLS, k_i) for each patch i -> (h*w,): the last layer's keys after its output projection.

    Source: the published evaluation code of Zhao et al., Grad-ECLIP, ICML 2024, in its MaskCLIP.
    """
    layer, tokens = passed.transformer.layers[-1], passed.tokens[-1].float()
    with in_float32(*layer.modules):
        _, keys, _ = layer.project(tokens)
        projected = layer.out(keys)[0]
    return cosine_similarity(projected[passed.row], projected[passed.patches], dim=-1)


def read_patches(passed: TransformerPass, tokens: Tensor) -> Tensor:
    """(h*w,D): the head on each patch of the tokens (1,N,C) after the last layer, as if it were the token that is read, or,
    where the mean over all tokens is read, each of them."""
    alone = tokens[:, passed.patches].transpose(0, 1)
    everywhere = alone.expand(-1, passed.first + 1, -1)
    return passed.transformer.read(everywhere if passed.transformer.pooling == "mean" else alone)
