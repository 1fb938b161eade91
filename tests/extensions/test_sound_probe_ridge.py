"""Compare ridge regression with its normal equations and leave-one-out refits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional import r2_score

from extensions.sound_probe import ridge
from extensions.sound_probe.ridge import PENALTIES, fit_ridge, predict, r2


def problem(num_rows, num_features, num_targets, seed=0):
    random = np.random.default_rng(seed)
    x = random.normal(size=(num_rows + 5, num_features)) * random.uniform(0.1, 10, size=num_features) + 3
    y = x @ random.normal(size=(num_features, num_targets)) + random.normal(size=(num_rows + 5, num_targets)) * 2
    return x[:num_rows], y[:num_rows], x[num_rows:]


def predicted(train, targets, test):
    train, targets, test = (torch.from_numpy(np.asarray(rows)) for rows in (train, targets, test))
    return predict(fit_ridge(train, targets), test).numpy()


def by_normal_equations(train, targets, test, penalty):
    """The definition, constant and all: the least of mean squared error + penalty |w|^2, one linear system."""
    mean, std = train.mean(axis=0), train.std(axis=0)
    design = np.column_stack([(train - mean) / std, np.ones(len(train))])
    free = np.diag([penalty * len(train)] * train.shape[1] + [0.0])
    weights = np.linalg.solve(design.T @ design + free, design.T @ targets)
    return np.column_stack([(test - mean) / std, np.ones(len(test))]) @ weights


@pytest.mark.parametrize("penalty", [1e-3, 0.3, 50.0])
@pytest.mark.parametrize("shape", [(41, 7, 3), (9, 23, 1), (3, 1, 2)])
def test_one_penalty_is_the_normal_equations(shape, penalty, monkeypatch):
    monkeypatch.setattr(ridge, "PENALTIES", (penalty,))
    train, targets, test = problem(*shape)
    found = predicted(train, targets, test)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, by_normal_equations(train, targets, test, penalty), rtol=1e-7, atol=1e-9)


@given(st.integers(4, 25), st.integers(1, 30), st.integers(0, 1000))
def test_the_penalty_of_each_target_is_the_one_that_predicts_each_row_best_without_it(num_rows, num_features, seed):
    train, targets, _ = problem(num_rows, num_features, 2, seed)
    # The scale of the features is that of all rows, as the function says; everything else is fitted again.
    scaled = (train - train.mean(axis=0)) / train.std(axis=0)
    errors = np.zeros((len(PENALTIES), 2))
    for row in range(num_rows):
        others = np.arange(num_rows) != row
        centre, offset = scaled[others].mean(axis=0), targets[others].mean(axis=0)
        x, y = scaled[others] - centre, targets[others] - offset
        for number, penalty in enumerate(PENALTIES):
            w = np.linalg.solve(x.T @ x + penalty * num_rows * np.eye(num_features), x.T @ y)
            errors[number] += (targets[row] - offset - (scaled[row] - centre) @ w) ** 2 / num_rows
    chosen = fit_ridge(torch.from_numpy(train), torch.from_numpy(targets))[-1].alpha_ / num_rows
    for column, penalty in enumerate(chosen):
        number = np.abs(np.log(np.array(PENALTIES) / penalty)).argmin()
        assert errors[number, column] <= errors[:, column].min() * (1 + 1e-5)


def test_noise_is_shrunk_to_the_mean_and_an_exact_law_is_not():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, dtype=torch.float64, generator=random)
    y = torch.stack([torch.randn(60, dtype=torch.float64, generator=random), 2 * x[:, 3] - 1], dim=1)
    noise, law = predict(fit_ridge(x, y), x).T
    assert noise.std() < 0.5 * y[:, 0].std()
    torch.testing.assert_close(law, y[:, 1], atol=1e-3, rtol=0)


def test_a_feature_that_never_changes_says_nothing():
    train, targets, test = problem(30, 4, 2)
    constant = [np.column_stack([rows, np.full(len(rows), 0.1)]) for rows in (train, test)]
    np.testing.assert_allclose(predicted(constant[0], targets, constant[1]), predicted(train, targets, test))


def test_r2_by_hand():
    found = r2(torch.tensor([[0.0, 5.0], [1.0, 7.0]]), torch.tensor([[0.0, 5.0], [2.0, 9.0]]))
    assert found.tolist() == [0.5, 0.5]  # error 1 of a deviation from the mean of 1 + 1; 4 of 4 + 4


@given(st.integers(5, 40), st.integers(0, 1000))
def test_r2_is_that_of_torchmetrics(num_rows, seed):
    random = torch.Generator().manual_seed(seed)
    prediction, target = torch.randn(2, num_rows, 3, dtype=torch.float64, generator=random)
    torch.testing.assert_close(r2(prediction, target), r2_score(prediction, target, multioutput="raw_values"))
