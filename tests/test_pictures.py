"""The pictures show the numbers they are drawn from, to the pixel, and need no global state."""

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text
from sklearn.metrics import confusion_matrix

from handgrad.backprop import Parameters, forward
from handgrad.dashboard.pictures import answers, canvas, layers, plane, snapshot

PACKAGE = Path(canvas.__file__).parents[2]


def network(n_x: int, n_h: int, n_y: int, seed: int = 0, spread: float = 2.0) -> Parameters:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((n_h, n_x), (n_h,), (n_y, n_h), (n_y,))
    return Parameters(*(spread * torch.randn(shape, generator=draw) for shape in shapes))


def shown(labels, answers, names, of, inputs=None) -> Any:
    named = SimpleNamespace(class_names=names)
    return SimpleNamespace(labels=labels, answers=answers, examples=named, of=of, inputs=inputs)


def texts(figure: Figure) -> list[str]:
    return [each.get_text() for each in figure.findobj(Text)]


# The plane.

OFFSET, DIVISOR = np.array([3.0, -1.0]), np.array([2.0, 0.5])


def points(m: int = 60) -> torch.Tensor:
    return torch.randn((m, 2), generator=torch.Generator().manual_seed(1))


def pictured(n_y: int, n_h: int = 5) -> tuple[Figure, Parameters, plane.Plane]:
    params, inputs = network(2, n_h, n_y), points()
    here = plane.Plane.around(params, inputs, OFFSET, DIVISOR, ("length", "width"))
    answer = forward(params, inputs).A2
    said = (answer[:, 0] > 0.5).long() if n_y == 1 else answer.argmax(dim=1)
    labels = said.clone()
    labels[:7] = (labels[:7] + 1) % max(n_y, 2)
    names = tuple("abc"[: max(n_y, 2)])
    examples = shown(labels.numpy(), said.numpy(), names, "training", inputs)
    figure = plane.boundary(here, params, examples)
    return figure, params, here


def asked(params: Parameters, places: np.ndarray) -> np.ndarray:
    """The network's answer at places given in the data's unit."""
    scaled = torch.from_numpy((places - OFFSET) / DIVISOR).float()
    return forward(params, scaled).A2.numpy()


def contour_vertices(figure: Figure) -> list[np.ndarray]:
    found = [each for each in figure.axes[0].collections if isinstance(each, ContourSet)]
    return [path.vertices for each in found for path in each.get_paths() if len(path.vertices)]


def test_the_boundary_is_where_the_answer_is_undecided() -> None:
    figure, params, _ = pictured(1)
    (vertices,) = contour_vertices(figure)
    assert len(vertices) > 20
    assert np.abs(asked(params, vertices) - 0.5).max() < 0.01


def test_with_several_classes_the_two_largest_answers_meet_on_the_boundary() -> None:
    figure, params, _ = pictured(3)
    vertices = np.concatenate(contour_vertices(figure))
    ordered = np.sort(asked(params, vertices), axis=1)
    assert len(vertices) > 20
    assert (ordered[:, -1] - ordered[:, -2]).max() < 0.03


@pytest.mark.parametrize("n_y", [1, 3])
def test_the_colours_are_those_of_the_answer_at_each_place(n_y: int) -> None:
    figure, params, here = pictured(n_y)
    image = figure.axes[0].images[0]
    colours, (left, right, bottom, top) = np.asarray(image.get_array()), image.get_extent()
    assert image.origin == "lower"
    draw = np.random.default_rng(0)
    rows, columns = draw.integers(0, plane.POINTS, (2, 40))
    x = left + (right - left) * columns / (plane.POINTS - 1)
    y = bottom + (top - bottom) * rows / (plane.POINTS - 1)
    answer = asked(params, np.stack([x, y], axis=1))
    for row, column, at in zip(rows, columns, answer, strict=True):
        red, _, blue = colours[row, column][:3]
        if n_y == 1 and abs(at[0] - 0.5) > 0.02:
            assert (red > blue) == (at[0] > 0.5)
        elif n_y == 3:
            likely = np.array(
                [1 - 0.45 * at.max() * (1 - np.array(to_rgb(canvas.CLASSES[k]))) for k in range(3)]
            )
            np.testing.assert_allclose(colours[row, column], likely[at.argmax()], atol=1e-5)
    assert here.extent == (left, right, bottom, top)


def test_the_lines_are_where_hidden_units_are_undecided() -> None:
    figure, params, _ = pictured(1)
    (lines,) = (each for each in figure.axes[0].collections if isinstance(each, LineCollection))
    segments = np.array(lines.get_segments())
    strength = params.W2[0].abs().numpy()
    order = strength.argsort()[::-1]
    for segment, unit in zip(segments, order, strict=True):
        for share in (0.4, 0.5, 0.6):  # of the way between both ends
            place = (1 - share) * segment[0] + share * segment[1]
            scaled = torch.from_numpy((place - OFFSET) / DIVISOR)[None].float()
            assert float(forward(params, scaled).A1[0, unit]) == pytest.approx(0.5, abs=1e-3)
    assert (np.diff(lines.get_linewidths()) <= 0).all()


def test_a_unit_without_weights_has_no_line() -> None:
    params = network(2, 3, 1)
    params.W1[1] = 0
    here = plane.Plane.around(params, points(), OFFSET, DIVISOR, ("x", "y"))
    ends = here.unit_lines(params)
    assert np.isnan(ends[1]).all()
    assert np.isfinite(ends[[0, 2]]).all()


def test_exactly_the_wrong_examples_are_ringed() -> None:
    figure, _, _ = pictured(1)
    rings = figure.axes[0].collections[-1]
    assert isinstance(rings, PathCollection)
    expected = points()[:7].numpy() * DIVISOR + OFFSET
    np.testing.assert_allclose(np.asarray(rings.get_offsets()), expected)
    assert "7 of 60 training examples are wrong (ringed)" in texts(figure)


def test_small_multiples_show_each_unit_over_the_plane() -> None:
    params = network(2, 5, 1)
    here = plane.Plane.around(params, points(), OFFSET, DIVISOR, ("x", "y"))
    tiles = here.unit_tiles(np.array([4, 1]))
    across, up = here.axes
    for row, column in ((0, 0), (3, 30), (40, 7)):
        place = np.array([[across[3 * column], up[::-1][3 * row]]])
        scaled = torch.from_numpy((place - OFFSET) / DIVISOR).float()
        expected = forward(params, scaled).A1[0, [4, 1]].numpy()
        np.testing.assert_allclose(tiles[:, row, column], expected, atol=1e-5)
    shown = np.asarray(plane.hidden_units(here, params).axes[0].images[0].get_array())
    first = here.unit_tiles(np.arange(5))[0]
    np.testing.assert_allclose(shown[: len(first), : len(first)], canvas.SIGNED(first), atol=1e-6)


def test_of_many_units_the_strongest_are_shown_in_their_own_order() -> None:
    params = network(2, 50, 3)
    strongest = set(params.W2.norm(dim=0).argsort(descending=True)[:36].tolist())
    chosen = snapshot.strongest_units(params, 36)
    assert set(chosen) == strongest
    assert list(chosen) == sorted(chosen)


# The weights.


def test_tiles_hold_each_units_weights_at_their_pixels() -> None:
    params, gradient = network(12, 6, 2), torch.randn(6, 12)
    figure = layers.tiles(params, gradient, (3, 4))
    for axes, matrix in zip(figure.axes[::2], (params.W1, gradient), strict=True):
        (image,) = axes.images
        shown = np.ma.filled(image.get_array(), np.nan)
        columns = (shown.shape[1] + 1) // 5
        for unit in range(6):
            top, left = unit // columns * 4, unit % columns * 5
            tile = shown[top : top + 3, left : left + 4]
            np.testing.assert_allclose(tile, matrix[unit].view(3, 4).numpy(), rtol=1e-6)
        assert image.norm.vmin == -image.norm.vmax
        assert np.mean(np.abs(matrix.numpy()) <= image.norm.vmax) >= 0.98
    assert np.isnan(shown[3]).all()


def test_white_is_zero_and_red_is_positive() -> None:
    low, zero, high = canvas.SIGNED([0.0, 0.5, 1.0])[:, :3]
    assert min(zero) > 0.96
    assert low[2] > low[0]
    assert high[0] > high[2]


@pytest.mark.parametrize(("n_h", "n_y"), [(7, 1), (50, 3)])
def test_areas_of_hinton_squares_are_proportional_to_the_weights(n_h: int, n_y: int) -> None:
    params = network(4, n_h, n_y)
    names = tuple(f"class {k}" for k in range(max(n_y, 2)))
    figure = layers.hinton(params, names)
    areas, reds = [], []
    for axes in figure.axes:
        squares, _ = (each for each in axes.collections if isinstance(each, PolyCollection))
        corners = np.array([path.vertices[:4] for path in squares.get_paths()])
        side = corners.max(axis=1) - corners.min(axis=1)
        np.testing.assert_allclose(side[:, 0], side[:, 1], rtol=1e-6)
        areas.append(side.prod(axis=1).reshape(n_y, -1))
        red = np.asarray(squares.get_facecolors())
        reds.append((red[:, 0] > red[:, 2]).reshape(n_y, -1))
    shares = np.concatenate(areas, axis=1) / params.W2.abs().numpy()
    np.testing.assert_allclose(shares, shares.max(), rtol=1e-4)
    assert (np.concatenate(reds, axis=1) == (params.W2 > 0).numpy()).all()
    assert max(area.max() for area in areas) <= 0.9**2 + 1e-6


# The sigmoids.


def test_the_saturation_map_has_a_column_for_each_example_sorted_by_class() -> None:
    params, labels = network(4, 6, 3), np.array([2, 0, 1, 0, 2])
    seen = forward(params, torch.randn(5, 4))
    figure = layers.saturation_map(seen, labels, ("a", "b", "c"))
    (image,) = figure.axes[0].images
    np.testing.assert_allclose(np.asarray(image.get_array()), seen.A1.numpy()[[1, 3, 2, 0, 4]].T)
    assert (image.norm.vmin, image.norm.vmax) == (0, 1)
    share = ((seen.A1 < 0.05) | (seen.A1 > 0.95)).double().mean().item()
    assert any(f"{share:.0%} of A1 is saturated" in each for each in texts(figure))


def test_of_many_examples_every_class_keeps_its_share() -> None:
    labels = np.repeat([0, 1, 2], [1000, 500, 500])
    kept = labels[layers.columns_of(np.random.default_rng(0).permutation(labels))]
    assert len(layers.columns_of(labels)) == layers.MOST_EXAMPLES
    assert len(kept) == layers.MOST_EXAMPLES
    shown = labels[layers.columns_of(labels)]
    assert np.bincount(shown) == pytest.approx([80, 40, 40], abs=1)


def test_the_slope_is_the_derivative_and_the_histogram_counts_every_z1() -> None:
    z1 = torch.randn((40, 7), generator=torch.Generator().manual_seed(0)) * 3
    figure = layers.slopes(z1)
    upper, lower = figure.axes
    at, slope = (torch.as_tensor(np.asarray(each)) for each in upper.lines[0].get_data())
    at.requires_grad_()
    torch.sigmoid(at).sum().backward()
    torch.testing.assert_close(slope, at.grad)
    stairs = lower.patches[-1].get_data()
    expected, _ = np.histogram(z1.numpy(), layers.BINS, (stairs.edges[0], stairs.edges[-1]))
    np.testing.assert_allclose(stairs.values, expected / z1.numel())
    assert 0.99 <= stairs.values.sum() <= 1
    assert lower.get_xlim() == upper.get_xlim() == (stairs.edges[0], stairs.edges[-1])


# The answers.


def test_confusion_is_scikit_learns() -> None:
    draw = np.random.default_rng(0)
    labels, said = draw.integers(0, 4, 200), draw.integers(0, 4, 200)
    counts = confusion_matrix(labels, said, labels=range(5))
    figure = answers.confusion(shown(labels, said, tuple("abcde"), "test"))
    shares = np.asarray(figure.axes[0].images[0].get_array())
    expected = confusion_matrix(labels, said, normalize="true")
    np.testing.assert_allclose(shares[:4, :4], expected)
    assert not shares[4].any()
    drawn = {each.get_position(): each.get_text() for each in figure.axes[0].texts}
    assert drawn == {(c, r): str(counts[r, c]) for r in range(4) for c in range(4) if counts[r, c]}
    assert f"{np.mean(labels == said):.1%} of 200 test examples are right" in texts(figure)


def test_hardest_images_stand_in_their_order_with_their_captions() -> None:
    images = np.random.default_rng(0).random((6, 3, 4))
    captions = [(f"is {k}", f"said {k}") for k in range(6)]
    wrong = np.arange(6) < 2
    figure = answers.hardest_images(images, captions, wrong, "training")
    (axes,) = figure.axes
    for k, image in enumerate(axes.images):
        np.testing.assert_allclose(np.asarray(image.get_array()), images[k])
        left, right, bottom, _ = image.get_extent()
        text = axes.texts[k]
        assert text.get_text() == f"is {k}\nsaid {k}"
        assert left < text.get_position()[0] < right
        assert bottom - 0.1 < text.get_position()[1] < bottom
        assert text.get_color() == (canvas.POSITIVE if k < 2 else canvas.INK)
    places = [image.get_extent() for image in axes.images]
    assert places == sorted(places, key=lambda box: (-box[3], box[0]))


def test_hardest_rows_show_values_in_their_own_unit_on_the_scaled_colours() -> None:
    values, scaled = np.array([[10.0, 200.0], [30.0, 400.0]]), np.array([[-1.0, 0.5], [0.2, 2.0]])
    captions = [("is a", "said b (9%)"), ("is b", "said b (99%)")]
    figure = answers.hardest_rows(values, scaled, ("x", "y"), captions, np.array([True, False]), "")
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(np.asarray(image.get_array()), scaled)
    assert image.norm.vmin == -image.norm.vmax == -2
    assert {"10", "200", "30", "400", "is a, said b (9%)"} <= set(texts(figure))


# All of them.


def test_a_mosaic_keeps_every_tile() -> None:
    tiles = np.arange(5 * 2 * 3.0).reshape(5, 2, 3)
    whole = canvas.mosaic(tiles, 2, 1, -1)
    assert whole.shape == (8, 7)
    np.testing.assert_array_equal(whole[3:5, 4:7], tiles[3])
    assert (whole[2] == -1).all()
    assert (whole[:, 3] == -1).all()
    assert (whole[6:, 4:] == -1).all()


@pytest.mark.parametrize("size", [(6.4, 4.8), (5.0, 3.0)])
def test_pixels_are_those_of_the_figure(size: tuple[float, float]) -> None:
    drawn = canvas.pixels(canvas.titled(*size, "title", "explanation"))
    assert drawn.shape == (round(size[1] * 100), round(size[0] * 100), 3)
    assert drawn.dtype == np.uint8
    assert (drawn[-1] == 255).all()
    assert drawn.min() < 100


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.name)
def test_no_file_uses_pyplot(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
        assert not any("pyplot" in name for name in [*names, getattr(node, "module", None) or ""])
