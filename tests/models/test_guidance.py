import torch

from danceopd_ext.models.guidance import keeping_length
from danceopd_ext.models.packing import pack
from tests.method.fields2d import Target


def field(latents, sigma, condition):
    """Something nonlinear that the text changes in every token."""
    return torch.sin(latents * 3) + condition.points.view(-1, *[1] * (latents.ndim - 1)) * latents.flip(-1)


LATENTS = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(1))
SIGMA, TEXT = torch.full((2,), 0.5), Target(torch.tensor([0.7, -1.2]))


def test_every_token_keeps_the_length_that_it_has_with_the_text():
    found = keeping_length(field, 4.0)(LATENTS, SIGMA, TEXT)
    with_text, without = field(LATENTS, SIGMA, TEXT), field(LATENTS, SIGMA, TEXT.unconditional())
    assert torch.allclose(pack(found).norm(dim=-1), pack(with_text).norm(dim=-1), rtol=1e-5)
    plain = pack(without + 4.0 * (with_text - without))
    cosine = torch.nn.functional.cosine_similarity(pack(found), plain, dim=-1)
    assert torch.allclose(cosine, torch.ones_like(cosine), atol=1e-5)
    assert not torch.allclose(plain.norm(dim=-1), pack(with_text).norm(dim=-1), rtol=0.05)


def test_a_frame_axis_changes_nothing():
    flat = keeping_length(field, 4.0)(LATENTS, SIGMA, TEXT)
    framed = keeping_length(field, 4.0)(LATENTS.unsqueeze(2), SIGMA, TEXT)
    assert torch.equal(framed.squeeze(2), flat)


def test_below_one_it_is_the_plain_formula():
    with_text, without = field(LATENTS, SIGMA, TEXT), field(LATENTS, SIGMA, TEXT.unconditional())
    assert torch.allclose(keeping_length(field, 0.5)(LATENTS, SIGMA, TEXT), (with_text + without) / 2, atol=1e-6)
    assert keeping_length(field, 1.0) is field
