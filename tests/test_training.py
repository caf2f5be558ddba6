"""Training: which images come when, the resumable loop, classifiers, infillers and maskers on tiny data."""

import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import cpu_environment, on_devices

from case_jax import CaseJaxError, parallel
from case_jax.data import DigitScenes
from case_jax.masking import InfillNet, Ingredients, Side, infiller, masked_in, masked_out, masker_task, networks
from case_jax.masking.infill import INFILLERS, as_infiller, infill_task, random_holes
from case_jax.masking.ingredients import CLASSIFIER_MODES, CONTRAST_IN, CONTRAST_OUT, IN, check
from case_jax.results import RunFolder
from case_jax.source import Example, UnreadableImageError
from case_jax.training import Batch, Examples, Keys, Network, Recipe, few_shot, train
from case_jax.training.classifier import adamw, classifier_task
from case_jax.training.loop import read_curves

PIXELS = {"mean": (0.1, 0.1, 0.1), "std": (0.2, 0.2, 0.2)}
SMALL = Recipe(steps=6, batch=4, log_every=2, save_every=2)


class Cards:
    """Cards of a class's own grey, one of them broken, one without a label, when asked for."""

    name, class_names, fingerprint = "cards", ("a", "b", "c"), "v1"

    def __init__(self, count=12, *, broken=None, nameless=None):
        self.count, self.broken, self.nameless = count, broken, nameless

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.broken:
            raise UnreadableImageError(f"card {index}", "torn")
        label = -1 if index == self.nameless else index % 3
        return Example(index, f"card {index}", np.full((16, 16, 3), 40 + 80 * (index % 3), np.uint8), label)


class Dot(nnx.Module):
    """Mean colour to three logits."""

    def __init__(self, *, rngs):
        self.bn = nnx.BatchNorm(3, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.bn(x.mean((1, 2))))


def test_every_image_comes_once_before_any_comes_again():
    examples = Examples(Cards(10), [1, 2, 3, 5, 7], seed=3)
    seen = np.concatenate([examples.chosen(step, 4) for step in range(5)])  # twenty places: four rounds of five
    rounds = seen.reshape(4, 5)
    assert all(sorted(r) == [1, 2, 3, 5, 7] for r in rounds.tolist())
    assert len({tuple(r) for r in rounds.tolist()}) > 1
    np.testing.assert_array_equal(examples.chosen(3, 4), seen[12:16])  # whatever was asked before
    batches = list(examples.batches(1, 3, 4))
    assert [b.images.shape for b in batches] == [(4, 16, 16, 3)] * 2
    np.testing.assert_array_equal(np.concatenate([b.labels for b in batches]), seen[4:12] % 3)
    np.testing.assert_array_equal(batches[0].targets.argmax(1), batches[0].labels)


def test_others_take_the_place_of_images_that_cannot_be_read():
    examples = Examples(Cards(6, broken=4), seed=0)
    [batch] = examples.batches(0, 1, 6)
    assert examples.unreadable == {"card 4": "torn"}
    assert batch.images.shape == (6, 16, 16, 3)
    chosen = examples.chosen(0, 6)
    kept = [int(i) % 3 for i in chosen if i != 4]
    assert [label for i, label in zip(chosen, batch.labels.tolist(), strict=True) if i != 4] == kept


@pytest.mark.parametrize("of", [1, 2, 4])
def test_shares_of_a_batch_are_the_batch(of):
    """Also where images that cannot be read lie on the edge of a share, or fill one."""
    source = Torn({2, 3, 5, 6, 7, 11})
    whole = list(Examples(source, seed=1, augment=True).batches(0, 4, 8))
    readers = [Examples(source, seed=1, augment=True) for _ in range(of)]
    shares = [reader.batches(0, 4, 8, share=(number, of)) for number, reader in enumerate(readers)]
    for expected, found in zip(whole, zip(*shares, strict=True), strict=True):
        for one, parts in zip(expected, zip(*found, strict=True), strict=True):
            assert one is not None or parts == (None,) * of
            if one is not None:
                np.testing.assert_array_equal(np.concatenate(parts), one)
    assert {name for reader in readers for name in reader.unreadable} == {f"card {i}" for i in source.torn}


def test_targets_are_the_source_s_own_where_it_has_them():
    source = DigitScenes("train", 3)
    found = Examples(source).read(1)
    np.testing.assert_array_equal(found.targets[0], source.scene(1).target)


def test_shuffled_labels_are_random_and_always_the_same():
    source = DigitScenes("train", 40)
    first, again = (
        [int(Examples(source, shuffled_labels=True).read(i).labels[0]) for i in range(40)] for _ in range(2)
    )
    assert first == again
    assert sum(a == source[i].label for i, a in enumerate(first)) < 10
    target = Examples(source, shuffled_labels=True).read(0).targets[0]
    assert target.max() == 1
    assert target.argmax() == first[0]


def test_a_few_images_of_each_class():
    source = DigitScenes("train", 400)
    two, five = few_shot(source, 2, seed=0), few_shot(source, 5, seed=0)
    assert np.bincount([source[int(i)].label for i in five]).tolist() == [5] * 25
    assert len(two) == 50
    assert set(two) <= set(five)
    assert set(two) != set(few_shot(source, 2, seed=1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Examples(Cards(), []), "data: got cards without images"),
        (
            lambda: list(Examples(Cards(broken=2), [2]).batches(0, 1, 4)),
            "data: got a batch of 4 in which no image can be read, card 2 the last",
        ),
        (lambda: Examples(Cards(nameless=4)).read(4), "data: card 4 has no label"),
        (lambda: few_shot(Cards(), 0, seed=0), "per_class: got 0"),
        (lambda: few_shot(Cards(), 5, seed=0), r"fewer images of a \(4\), b \(4\), c \(4\)"),
    ],
)
def test_bad_images_are_named(call, message):
    with pytest.raises(CaseJaxError, match=message):
        call()


def run(folder, *, recipe=SMALL, source=None, seed=0, rate=1e-2):
    task = classifier_task(Dot(rngs=nnx.Rngs(seed)), **PIXELS, optimiser=adamw(recipe.steps, rate=rate))
    examples = Examples(source or Cards(), seed=0)
    return train(task, examples, recipe, RunFolder(folder), config={"seed": seed}, facts={}, progress=False)


def same(first, second, tolerance=0.0):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance), first, second)


def test_what_could_not_be_read_is_kept_when_a_training_goes_on(tmp_path):
    """An image that only an interrupted session met is still in the folder's list, and in the caller's."""
    folder = RunFolder(tmp_path / "run")
    run(folder.path, source=Cards(broken=4))
    assert folder.unreadable() == {"card 4": "torn"}
    examples = Examples(Cards(), seed=0)
    task = classifier_task(Dot(rngs=nnx.Rngs(0)), **PIXELS, optimiser=adamw(SMALL.steps, rate=1e-2))
    train(task, examples, SMALL, folder, config={"seed": 0}, facts={}, progress=False)
    assert examples.unreadable == folder.unreadable() == {"card 4": "torn"}
    (folder.path / "unreadable.json").write_text("{")
    with pytest.raises(CaseJaxError, match=r"unreadable.json cannot be read .*; delete it"):
        run(folder.path)


def test_a_training_that_dies_ends_as_an_unbroken_one(tmp_path):
    class Dying(Cards):
        reads = 0

        def __getitem__(self, index):
            self.reads += 1
            if self.reads > 11:
                raise RuntimeError("power cut")
            return super().__getitem__(index)

    unbroken = run(tmp_path / "unbroken", recipe=SMALL)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run", source=Dying())
    same(run(tmp_path / "run"), unbroken)
    first, second = (read_curves(tmp_path / name / "log.csv") for name in ("run", "unbroken"))
    assert [r["step"] for r in first] == [2, 4, 6]
    assert [{**r, "seconds": 0} for r in first] == [{**r, "seconds": 0} for r in second]


def test_a_finished_training_is_left_alone_and_another_is_refused(tmp_path):
    done = run(tmp_path)
    before = (tmp_path / "log.csv").read_bytes()
    same(run(tmp_path, source=Cards(broken=0)), done)
    assert (tmp_path / "log.csv").read_bytes() == before
    with pytest.raises(CaseJaxError, match="seed: the folder has 0, this run 1"):
        run(tmp_path, seed=1)
    with pytest.raises(CaseJaxError, match=r"recipe\.steps: the folder has 6, this run 8"):
        run(tmp_path, recipe=SMALL._replace(steps=8))


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    with pytest.raises(CaseJaxError, match=r"loss is not finite between steps .* lower learning rate"):
        run(tmp_path, rate=1e38)


def test_bad_recipes_are_refused(tmp_path):
    with pytest.raises(CaseJaxError, match="steps: got 0"):
        run(tmp_path, recipe=SMALL._replace(steps=0))
    with pytest.raises(CaseJaxError, match="batch: got 0; accepted: a multiple of the number of devices"):
        run(tmp_path, recipe=SMALL._replace(batch=0))


def test_processes_of_unequal_devices_or_beginnings_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "devices_by_process", lambda: [2, 1])
    with pytest.raises(CaseJaxError, match="devices: got 2 in process 0, 1 in process 1; accepted: equally many"):
        run(tmp_path)
    monkeypatch.setattr(parallel, "devices_by_process", lambda: [2, 2])
    with pytest.raises(CaseJaxError, match=r"batch: got 6; accepted: a multiple of .* of all 2 processes, 4"):
        run(tmp_path, recipe=SMALL._replace(batch=6))
    monkeypatch.setattr(parallel, "process", lambda: (0, 2))
    monkeypatch.setattr(parallel, "gathered", lambda text: [text, "other"])
    with pytest.raises(
        CaseJaxError, match="train: got other images or first parameters in process 1 than in process 0"
    ):
        run(tmp_path)


def test_averages_over_devices_are_means_of_every_number():
    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(4, 3, 5)), "b": (rng.normal(size=4), rng.normal(size=(4, 7)))}
    tree = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree) | {"half": jnp.ones((4, 2), jnp.bfloat16)}
    found = jax.vmap(parallel.average, axis_name="devices")(tree)
    for one, given in zip(jax.tree.leaves(found), jax.tree.leaves(tree), strict=True):
        assert one.dtype == given.dtype
        expected = np.broadcast_to(np.asarray(given, np.float32).mean(0), given.shape)
        np.testing.assert_allclose(np.asarray(one, np.float32), expected, atol=1e-6)
        assert (one == one[0]).all()
    alone = jax.tree.map(lambda a: a[:1], tree)
    jax.tree.map(np.testing.assert_array_equal, jax.vmap(parallel.average, axis_name="devices")(alone), alone)


def test_a_classifier_learns(tmp_path):
    run(tmp_path, recipe=Recipe(120, 6, log_every=20), rate=0.1)
    curves = read_curves(tmp_path / "log.csv")
    assert curves[-1]["loss"] < 0.8 * curves[0]["loss"]  # batches of six cards: statistics stay noisy
    assert curves[-1]["accuracy"] > 0.9


class Photos(Cards):
    """Cards of which a random view shows the number that it was given first."""

    def random_view(self, index, rng, /):
        example = self[index]
        return example._replace(image=np.full((16, 16, 3), rng.integers(256), np.uint8))


class Torn(Photos):
    """Some of them cannot be read."""

    def __init__(self, torn):
        super().__init__()
        self.torn = torn

    def __getitem__(self, index):
        if index in self.torn:
            raise UnreadableImageError(f"card {index}", "torn")
        return super().__getitem__(index)


def test_random_views_depend_on_the_place_alone():
    """Every image is shown in another view each time; a training that goes on shows what an unbroken one would."""
    examples = Examples(Photos(6, broken=4), seed=2, augment=True)
    whole = [batch.images[:, 0, 0, 0] for batch in examples.batches(0, 6, 3)]
    later = [batch.images[:, 0, 0, 0] for batch in Examples(Photos(6, broken=4), seed=2, augment=True).batches(4, 6, 3)]
    np.testing.assert_array_equal(whole[4:], later)
    assert len(np.unique(whole)) > 10
    assert list(examples.unreadable) == ["card 4"]
    with pytest.raises(CaseJaxError, match="augment: got True for cards; accepted: photographs"):
        Examples(Cards(), augment=True)


IMAGES = jax.random.normal(jax.random.key(1), (3, 16, 16, 3))


def test_masks_show_and_leave_complementary_parts():
    mask = jnp.zeros((3, 16, 16)).at[:, 4:9].set(1.0)
    np.testing.assert_array_equal(masked_in(IMAGES, mask) + masked_out(IMAGES, mask), IMAGES)
    filled = masked_in(IMAGES, mask, jnp.full_like(IMAGES, 7.0))
    np.testing.assert_array_equal(filled[:, 4:9], IMAGES[:, 4:9])
    assert (filled[:, 9:] == 7).all()


@pytest.mark.parametrize("name", [name for name, f in INFILLERS.items() if f])
def test_infillers_are_pure_functions_of_images(name):
    hidden = jnp.zeros((3, 16, 16)).at[:, 4:9].set(1.0).at[2].set(1.0)
    fill = jax.jit(infiller(name))
    found = fill(IMAGES, hidden, jax.random.key(0))
    assert found.shape == IMAGES.shape
    assert jnp.isfinite(found).all()
    np.testing.assert_array_equal(found, fill(IMAGES, hidden, jax.random.key(0)))
    if name == "mean":
        visible = jnp.concatenate([IMAGES[0, :4], IMAGES[0, 9:]]).mean((0, 1))
        np.testing.assert_allclose(found[0, 0, 0], visible, atol=1e-5)
        np.testing.assert_allclose(found[2, 5, 5], IMAGES[2].mean((0, 1)), atol=1e-5)
    if name == "blur":
        flat = fill(jnp.ones_like(IMAGES), hidden, jax.random.key(0))
        np.testing.assert_allclose(flat, 1.0, atol=1e-5)


def test_unknown_infillers_are_refused():
    with pytest.raises(CaseJaxError, match=r"infill.*blur"):
        infiller("blurr")
    with pytest.raises(CaseJaxError, match=r"images: got shape \(1, 18, 16, 3\); accepted: .* multiples of 16"):
        InfillNet(rngs=nnx.Rngs(0))(jnp.zeros((1, 18, 16, 3)), jnp.zeros((1, 18, 16)))


def test_holes_cover_parts_of_images():
    holes = random_holes(jax.random.key(0), 200, (16, 24))
    assert set(np.unique(holes)) == {0.0, 1.0}
    shares = holes.mean((1, 2))
    assert shares.min() < 0.2
    assert shares.max() > 0.8


def test_an_infiller_learns_to_fill_and_never_looks_behind_the_mask(tmp_path):
    net = InfillNet((4, 8), rngs=nnx.Rngs(0))
    task = infill_task(net, **PIXELS, rate=1e-2)
    recipe = Recipe(60, 6, log_every=20)
    state = train(task, Examples(Cards()), recipe, RunFolder(tmp_path), config={}, facts={}, progress=False)
    curves = read_curves(tmp_path / "log.csv")
    assert curves[-1]["loss"] < 0.5 * curves[0]["loss"]
    fill = as_infiller(Network(net).module(state[0]))
    hidden = jnp.zeros((3, 16, 16)).at[:, 4:9].set(1.0)
    other = IMAGES.at[:, 4:9].set(5.0)
    np.testing.assert_array_equal(*(fill(x, hidden, jax.random.key(0)) for x in (IMAGES, other)))


class Small(nnx.Module):
    """Two convolutions, whose outputs are its stages."""

    def __init__(self, *, rngs):
        self.first = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(4, 6, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = self.second(jax.nn.relu(self.bn(self.first(x))))
        return self.head(jax.nn.relu(x).mean((1, 2)))


def masker_parts(made_of):
    nets = networks(Small(rngs=nnx.Rngs(0)), ("first", "second"), made_of, (16, 16, 3), num_classes=3, seed=0)
    return nets, masker_task(nets, made_of, **PIXELS, fill=infiller(made_of.infill))


def steps_of(task, count, folder):
    return train(
        task, Examples(Cards()), Recipe(count, 4, log_every=1), RunFolder(folder), config={}, facts={}, progress=False
    )


def moved(before, after):
    changes = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - np.asarray(b)).max()), before, after)
    return max(jax.tree.leaves(changes))


@pytest.mark.parametrize("mode", CLASSIFIER_MODES)
def test_a_step_moves_what_it_should(tmp_path, mode):
    made_of = Ingredients(classifier=mode, history_size=2, history_every=2, width=8)
    nets, task = masker_parts(made_of)
    state = steps_of(task, 3, tmp_path)
    assert moved(nets.masker.variables.params, state.masker.params) > 1e-4
    assert moved(nets.masker.variables.stats, state.masker.stats) > 1e-4
    classifier_moved = moved(nets.classifier.variables, state.classifier)
    assert classifier_moved == 0 if mode == "fixed" else classifier_moved > 1e-5
    assert state.held == (2 if mode == "history" else 0)
    last = read_curves(tmp_path / "log.csv")[-1]
    assert {"loss", "in_loss", "out_loss", "mask_mean", "clean_accuracy"} <= last.keys()


@pytest.mark.parametrize("mode", ["alongside", "history"])
def test_a_masker_goes_on_with_its_classifier_and_its_past(tmp_path, mode):
    """From the last checkpoint but one: optimisers, statistics, past classifiers and random numbers are an unbroken run's."""
    made_of = Ingredients(classifier=mode, history_size=2, history_every=2, width=8)

    def trained():
        recipe = Recipe(6, 4, log_every=1, save_every=2)
        task = masker_parts(made_of)[1]
        return train(task, Examples(Cards()), recipe, RunFolder(tmp_path), config={}, facts={}, progress=False)

    whole, log = trained(), read_curves(tmp_path / "log.csv")
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    jax.tree.map(np.testing.assert_array_equal, trained(), whole)
    again = read_curves(tmp_path / "log.csv")
    assert [{**line, "seconds": 0} for line in again] == [{**line, "seconds": 0} for line in log]


@pytest.mark.parametrize("mode", ["history", "history-reference"])
def test_a_past_classifier_judges_as_the_paper_says_and_not_as_its_code_does(mode):
    """The past one knows nothing, so its cross-entropy is log 3; asked, neither it nor the current one learns from masked images."""
    made_of = Ingredients(IN._replace(size_weight=0.0), None, classifier=mode, width=8, tv_weight=0.0)
    task = masker_parts(made_of)[1]
    state = task.state
    if mode == "history":
        nothing = jax.tree.map(jnp.zeros_like, state.history)
        state = state._replace(history=nothing, held=jnp.int32(1))
    batch = Batch(*next(Examples(Cards()).batches(0, 1, 4)))
    one_device = jax.vmap(task.step, (None, 0, None), axis_name="devices")
    step = jax.jit(lambda *arguments: jax.tree.map(lambda a: a[0], one_device(*arguments)))
    batch = jax.tree.map(lambda a: a[None], batch)
    losses, heads = {True: [], False: []}, {True: [], False: []}
    for key in jax.random.split(jax.random.key(0), 6):
        past = bool(jax.random.bernoulli(jax.random.split(key, 3)[1]))
        after, numbers = step(state, batch, Keys(key, key))
        losses[past].append(float(numbers["in_loss"]))
        heads[past].append(np.asarray(after.classifier.params["head"]["bias"][...]))
    assert losses[True]
    assert losses[False]
    assert (np.abs(np.array(losses[True]) - np.log(3)) < 1e-6).all() == (mode == "history")
    assert (np.abs(np.array(losses[False]) - np.log(3)) > 1e-3).all()
    np.testing.assert_array_equal(np.ptp(heads[True], axis=0), 0)  # the clean step alone
    assert np.abs(heads[True][0] - heads[False][0]).max() > 0


@pytest.mark.parametrize(
    "made_of",
    [
        Ingredients(masked_out=None, gumbel=True, width=8),
        Ingredients(masked_in=None, infill="blur", width=8, tv_per_side=True),
        Ingredients(size_conditional=True, infill="noise", width=8, stages=(0, 1)),
        Ingredients(CONTRAST_IN, CONTRAST_OUT, class_conditional=True, targets="two", infill="mean", width=8),
    ],
)
def test_variants_train(tmp_path, made_of):
    nets, task = masker_parts(made_of)
    state = steps_of(task, 2, tmp_path)
    assert moved(nets.masker.variables.params, state.masker.params) > 1e-4
    line = read_curves(tmp_path / "log.csv")[-1]
    assert ("in_loss" in line, "out_loss" in line) == (made_of.masked_in is not None, made_of.masked_out is not None)


def test_losses_are_the_sums_of_their_parts(tmp_path):
    """Computed by hand, with a fixed classifier."""
    from case_jax.imageops import normalise_image
    from case_jax.masking import objective, size_reward, to_image, total_variation
    from case_jax.masking.losses import correct

    made_of = Ingredients(width=8)
    nets, task = masker_parts(made_of)
    steps_of(task, 1, tmp_path)
    batch = next(Examples(Cards()).batches(0, 1, 4))
    images = jax.vmap(lambda x: normalise_image(x, **PIXELS))(batch.images)
    clean, maps, _ = nets.classifier(nets.classifier.variables, images, train=False)
    logits, _, _ = nets.masker(nets.masker.variables, maps, train=True)
    mask = to_image(jax.nn.sigmoid(logits), (16, 16))
    inside, outside = (
        nets.classifier(nets.classifier.variables, f(images, mask), train=False)[0] for f in (masked_in, masked_out)
    )
    y, counted = batch.labels, correct(clean, batch.labels)
    in_loss = objective("classification", "maximise", inside, y) + size_reward(mask, correct(inside, y), weight=1.0)
    out_loss = objective("entropy", "maximise", outside, y, counted=counted)
    out_loss += size_reward(mask, counted & ~correct(outside, y), weight=10.0)
    line = read_curves(tmp_path / "log.csv")[0]
    np.testing.assert_allclose(line["in_loss"], in_loss.mean(), rtol=1e-4)
    np.testing.assert_allclose(line["out_loss"], out_loss.mean(), rtol=1e-4)
    whole = in_loss.mean() + out_loss.mean() + total_variation(mask).mean()
    np.testing.assert_allclose(line["loss"], whole, rtol=1e-4)


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        (Ingredients(masked_in=None, masked_out=None), "masked_in, masked_out: got neither"),
        (Ingredients(classifier="fixd"), "classifier.*fixed"),
        (Ingredients(targets="two"), "class_conditional: got False"),
        (Ingredients(Side("contrast", "maximise", 1.0)), "class_conditional: got False"),
        (Ingredients(temperature=0.0), "temperature: got 0.0"),
        (Ingredients(masker_rate=0.0), "masker_rate: got 0.0"),
        (Ingredients(history_every=0), "history_every: got 0"),
    ],
)
def test_ingredients_that_do_not_go_together_are_refused(made_of, message):
    with pytest.raises(CaseJaxError, match=message):
        check(made_of)


ON_DEVICES = """
import sys
import jax
import numpy as np
from flax import nnx
from case_jax.data import DigitScenes
from case_jax.results import RunFolder
from case_jax.training import Examples, Recipe, train
from case_jax.training.classifier import adamw, classifier_task

class Plain(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 4, (5, 5), strides=4, rngs=rngs)
        self.head = nnx.Linear(4, 25, rngs=rngs)
    def __call__(self, x):
        return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))

task = classifier_task(Plain(nnx.Rngs(0)), mean=(0.1,) * 3, std=(0.2,) * 3, optimiser=adamw(4, rate=1e-2))
examples = Examples(DigitScenes("train", 32))
state = train(task, examples, Recipe(4, 16), RunFolder(sys.argv[1]), config={}, facts={}, progress=False)
np.savez(sys.argv[1] + "/state.npz", *jax.tree.leaves(state))
"""


@pytest.mark.slow
def test_devices_share_a_batch(tmp_path):
    """Where nothing is normalised by the batch, four devices learn what one does."""
    leaves = []
    for count in (1, 4):
        folder = tmp_path / str(count)
        environment = on_devices(cpu_environment(tmp_path / "xla"), count)
        subprocess.run([sys.executable, "-c", ON_DEVICES, folder], env=environment, timeout=120, check=True)
        with np.load(folder / "state.npz") as found:
            leaves.append([found[name] for name in found.files])
    for one, four in zip(*leaves, strict=True):
        np.testing.assert_allclose(four, one, rtol=1e-4, atol=1e-6)
