"""Dense features of a contrastive model: one per patch, in the joint embedding space of images and texts."""

from torch import Tensor
from torch.nn.functional import cosine_similarity

from whybox.attention import TransformerPass
from whybox.ops.transformer import in_float32, modules_from, widened


def dense_features(transformer_pass: TransformerPass) -> Tensor:
    """Embed the patches by the last layer without its attention: values, output projection, residual and MLP where the layer
    has them, and the head. In float32; differentiable.

    Args:
        transformer_pass: A pass of an image.

    Returns:
        (h*w,D) one embedding per patch, in the joint space of images and texts.

    Source: Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
    """
    last = len(transformer_pass.transformer.layers) - 1
    layer, tokens = transformer_pass.transformer.layers[last], widened(transformer_pass.tokens[last])
    with in_float32(*modules_from(transformer_pass.transformer, last)):
        # As if each patch attended to itself alone: its value takes the place of the attention's output.
        _, _, values = layer.project(tokens)
        return read_patches(transformer_pass, layer.finish(tokens, layer.out(layer.mix(values))))


def key_similarity(transformer_pass: TransformerPass) -> Tensor:
    """cos(k_CLS, k_i) for each patch i: of the last layer's keys after its output projection.

    Args:
        transformer_pass: A pass of an image through an encoder with a class token.

    Returns:
        (h*w,)

    Source: the published evaluation code of Zhao et al., Grad-ECLIP, ICML 2024, in its MaskCLIP.
    """
    layer, tokens = transformer_pass.transformer.layers[-1], widened(transformer_pass.tokens[-1])
    with in_float32(*layer.modules):
        _, keys, _ = layer.project(tokens)
        projected = layer.out(keys)[0]
    return cosine_similarity(projected[transformer_pass.row], projected[transformer_pass.patches], dim=-1)


def read_patches(transformer_pass: TransformerPass, tokens: Tensor) -> Tensor:
    """Apply the head to each patch as if it were the class token or, where the mean over the patches is read, every one of
    them.

    Args:
        transformer_pass: The pass whose head and patches these are.
        tokens: (1,N,C) after the last layer.

    Returns:
        (h*w,D)
    """
    alone = tokens[:, transformer_pass.patches].transpose(0, 1)
    # Where the mean is read, the head skips the tokens before `first`: one more copy leaves the patch itself to average.
    everywhere = alone.expand(-1, transformer_pass.first + 1, -1)
    return transformer_pass.transformer.read(everywhere if transformer_pass.transformer.pooling == "mean" else alone)
