"""Ridge regression against its normal equations, refits without each row, and another library's R2."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import r2_score

from vcrast.ridge import r2, ridge_predict


def problem(num_rows, num_features, num_targets, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_rows + 5, num_features)) * random.uniform(0.1, 10, size=num_features) + 3
    y = x @ random.normal(size=(num_features, num_targets)) + random.normal(size=(num_rows + 5, num_targets)) * 2
    return x[:num_rows], y[:num_rows], x[num_rows:]


def by_normal_equations(train, targets, test, penalty):
    """The definition, constant and all: the least of mean squared error + penalty |w|^2, one linear system."""
    mean, std = train.mean(axis=0), train.std(axis=0, ddof=1)
    design = np.column_stack([(train - mean) / std, np.ones(len(train))])
    free = np.diag([penalty * len(train)] * train.shape[1] + [0.0])
    weights = np.linalg.solve(design.T @ design + free, design.T @ targets)
    return np.column_stack([(test - mean) / std, np.ones(len(test))]) @ weights


@pytest.mark.parametrize("penalty", [1e-3, 0.3, 50.0])
@pytest.mark.parametrize("shape", [(41, 7, 3), (9, 23, 1), (2, 1, 2)])
def test_one_penalty_is_the_normal_equations(shape, penalty):
    train, targets, test = problem(*shape)
    found, chosen = ridge_predict(*map(torch.from_numpy, (train, targets, test)), penalties=[penalty])
    np.testing.assert_allclose(found, by_normal_equations(train, targets, test, penalty), rtol=1e-7, atol=1e-9)
    assert chosen.tolist() == [penalty] * shape[2]


@given(st.integers(3, 25), st.integers(1, 30), st.integers(0, 1000))
def test_the_penalty_is_the_one_that_predicts_each_row_best_without_it(num_rows, num_features, seed):
    train, targets, test = problem(num_rows, num_features, 2, seed)
    penalties = [1e-3, 0.05, 1.0, 30.0]
    # The scale of the features is that of all rows, as the function says; everything else is fitted again.
    scaled = (train - train.mean(axis=0)) / train.std(axis=0, ddof=1)
    errors = np.zeros((len(penalties), 2))
    for row in range(num_rows):
        others = np.arange(num_rows) != row
        centre, offset = scaled[others].mean(axis=0), targets[others].mean(axis=0)
        x, y = scaled[others] - centre, targets[others] - offset
        for number, penalty in enumerate(penalties):
            w = np.linalg.solve(x.T @ x + penalty * num_rows * np.eye(num_features), x.T @ y)
            errors[number] += (targets[row] - offset - (scaled[row] - centre) @ w) ** 2 / num_rows
    _, chosen = ridge_predict(*map(torch.from_numpy, (train, targets, test)), penalties=penalties)
    for column, penalty in enumerate(chosen.tolist()):
        assert errors[penalties.index(penalty), column] <= errors[:, column].min() * (1 + 1e-6)


def test_noise_is_shrunk_to_the_mean_and_an_exact_law_is_not():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, dtype=torch.float64, generator=random)
    y = torch.stack([torch.randn(60, dtype=torch.float64, generator=random), 2 * x[:, 3] - 1], dim=1)
    _, chosen = ridge_predict(x, y, x)
    assert chosen[0] >= 1
    assert chosen[1] == pytest.approx(1e-5)


def test_a_feature_that_never_changes_says_nothing():
    train, targets, test = map(torch.from_numpy, problem(30, 4, 2))
    constant = [torch.cat([rows, torch.full((len(rows), 1), 0.1)], dim=1) for rows in (train, test)]
    torch.testing.assert_close(
        ridge_predict(constant[0], targets, constant[1])[0], ridge_predict(train, targets, test)[0]
    )


def test_r2_by_hand():
    target = torch.tensor([[0.0, 5.0], [2.0, 5.0]])
    found = r2(torch.tensor([[0.0, 5.0], [1.0, 5.0]]), target)
    assert found[0] == 0.5  # error 1, deviation from the mean 1 + 1
    assert found[1].isnan()  # a constant has no variance to explain


@given(st.integers(5, 40), st.integers(0, 1000))
def test_r2_is_that_of_torchmetrics(num_rows, seed):
    random = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, num_rows, 3, dtype=torch.float64, generator=random)
    torch.testing.assert_close(r2(prediction, target), r2_score(prediction, target, multioutput="raw_values"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": torch.rand(1, 3), "targets": torch.rand(1, 1)}, "at least 2"),
        ({"penalties": []}, "at least one"),
        ({"penalties": [1.0, 0.0]}, "above 0"),
        ({"test": torch.full((2, 3), torch.nan)}, "NaN"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, said):
    options = {"train": torch.rand(4, 3), "targets": torch.rand(4, 1), "test": torch.rand(2, 3), **change}
    with pytest.raises(ValueError, match=said):
        ridge_predict(**options)


def test_r2_needs_rows_of_one_shape():
    for shapes in (((3, 2), (3, 1)), ((0, 2), (0, 2))):
        with pytest.raises(ValueError, match="must be"):
            r2(torch.zeros(shapes[0]), torch.zeros(shapes[1]))
