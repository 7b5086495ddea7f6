import torch

from katlit.engines.base import SamplingParameters
from katlit.engines.hf import log_distribution, pick


def test_tokens_come_as_often_as_their_probabilities_say() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0]).expand(40_000, 4)
    sampling = SamplingParameters(temperature=0.5, top_k=3)
    log_probs = log_distribution(logits, sampling)
    draws = torch.rand(40_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shares = pick(log_probs, draws, greedy=False).bincount(minlength=4) / 40_000
    expected = torch.tensor([0.0, 2.0, 4.0]).softmax(-1)
    torch.testing.assert_close(shares[:3], expected, atol=0.01, rtol=0)
    assert shares[3] == 0


def test_the_extreme_draws_find_a_token_that_can_occur() -> None:
    log_probs = torch.tensor([[-torch.inf, 0.3, 0.7, -torch.inf]]).log_softmax(-1)
    least, most = torch.tensor([0.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    assert pick(log_probs, least, greedy=False).item() == 1
    assert pick(log_probs, most.nextafter(least), greedy=False).item() == 2


def test_the_most_likely_token_survives_any_top_p() -> None:
    log_probs = log_distribution(torch.tensor([[1.0, 3.0, 2.0]]), SamplingParameters(top_p=1e-6))
    assert log_probs.tolist() == [[-torch.inf, 0.0, -torch.inf]]
