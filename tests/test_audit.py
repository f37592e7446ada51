"""`vulnerable`: who is on top and why, what is refused, the page as a parser and a browser see it, the attack."""

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from test_scoring import HELD, MADE, OTHER, PRIVATE, Pair, blurred, joined
from test_scoring_inputs import noise, saved
from torchvision.models import get_model

from mi_utils.__main__ import main
from mi_utils.audit import Audit, attack, vulnerable
from mi_utils.audit.priors import shipped
from mi_utils.audit.request import Request, named_after
from mi_utils.errors import UserError
from mi_utils.metrics import perceptual as distances
from mi_utils.metrics.ddcs import transform
from mi_utils.models import perceptual, stylegan2_files
from mi_utils.models.external import ExternalClassifier
from mi_utils.report import folder
from mi_utils.scoring import score
from mi_utils.stage import StageFailed
from mi_utils.studies import PAPERS

CHROMIUM = Path("/usr/bin/chromium")
FILES = ["vulnerable.csv", "vulnerable.html", "vulnerable.json"]


@pytest.fixture(scope="module")
def plain() -> Audit:
    return vulnerable([MADE, OTHER], PRIVATE, holdout=HELD, top=5)


def by_hand(sets: list[Pair], private: Pair, g: str = "recip1p", label: bool = False) -> pd.DataFrame:
    """s_i, seeds and least distance of every private image from the whole matrix of distances."""
    scores, matched, least = [], [], []
    for images, labels in sets:
        q = distances.distances(images, private[0], perceptual.load("st-lpips-alex")).double()
        q = q.where(labels[:, None] == private[1], torch.inf) if label else q
        mu = torch.zeros(len(private[0]), dtype=torch.float64).index_fill_(0, q.argmin(1), 1)
        d = q.amin(0)
        scores.append(mu * transform(d, g))
        matched.append(mu)
        least.append(d)
    columns = {"vulnerability": torch.stack(scores).mean(0), "matched_in": torch.stack(matched).sum(0)}
    return pd.DataFrame({name: x.numpy() for name, x in columns.items()} | {"d": torch.stack(least).amin(0).numpy()})


# --- the list ----------------------------------------------------------------------------------------------


def test_planted_copies_are_on_top_in_the_order_of_their_noise():
    planted = [9, 4, 17, 22]
    images = torch.stack([PRIVATE[0][i].float() for i in planted])
    rng = torch.Generator().manual_seed(0)
    strength = torch.tensor([0.0, 1.0, 2.0, 4.0]).view(4, 1, 1, 1)
    noisy = images + strength * torch.randn(images.shape, generator=rng)
    copies = (noisy.round().clamp(0, 255).to(torch.uint8), PRIVATE[1][planted])
    others = (MADE[0][:3] // 2, MADE[1][:3])
    found = vulnerable(joined(others, copies), PRIVATE).ranked
    assert found["private"].tolist()[:4] == planted
    assert found["reconstruction"].tolist()[:4] == [3, 4, 5, 6]
    assert found["rank"].tolist() == list(range(1, 25))
    assert (found.loc[0, "distance"], found.loc[0, "vulnerability"]) == (0, 1)
    assert found["reconstruction_class"].tolist()[:4] == PRIVATE[1][planted].tolist()


@pytest.mark.parametrize(("g", "label"), [("recip1p", False), ("exp", False), ("linear", True)])
def test_vulnerability_is_the_mean_over_seeds_of_the_matched_closeness(g: str, label: bool):
    few = blurred(PRIVATE, 5, "third")
    sets = [MADE, OTHER, few]
    scope = "label" if label else "global"
    if label:
        few = sets[2] = tuple(x[:2] for x in few)  # a class that this seed lacks is matched by none of its images
    found = vulnerable(sets, PRIVATE, transform=g, scope=scope)
    hand = by_hand(sets, PRIVATE, g, label)
    own = found.ranked.set_index("private").sort_index()
    for name, column in (("vulnerability", "vulnerability"), ("matched_in", "matched_in"), ("distance", "d")):
        assert own[name].tolist() == pytest.approx(hand[column].tolist(), rel=1e-5), name
    assert found.record["ddcs"] == pytest.approx(hand["vulnerability"].mean(), rel=1e-5)
    assert found.record["coverage"] == pytest.approx(hand["matched_in"].mean() / 3)
    order = found.ranked[["vulnerability", "distance", "private"]].to_numpy()
    assert sorted(map(tuple, order), key=lambda r: (-r[0], r[1], r[2])) == list(map(tuple, order))
    assert g in found.record["definition"] and scope in found.record["definition"]


def test_a_match_in_every_seed_counts_more_than_a_closer_one_in_a_single_seed():
    both, once = (PRIVATE[0][[4]] // 8 * 8, PRIVATE[1][[4]]), (PRIVATE[0][[9]], PRIVATE[1][[9]])
    found = vulnerable([joined(both, once), both], PRIVATE).ranked
    assert found["private"].tolist()[:2] == [4, 9] and found["matched_in"].tolist()[:3] == [2, 1, 0]
    assert found.loc[1, "distance"] == 0 < found.loc[0, "distance"]
    assert found.loc[1, "vulnerability"] == 0.5
    rest = found["distance"].tolist()[2:]
    assert rest == sorted(rest), "unmatched images go by distance"


def test_duplicates_and_order_change_nothing():
    once = vulnerable([MADE, OTHER], PRIVATE)
    twice = vulnerable([joined(MADE, tuple(x[:9] for x in MADE)), OTHER], PRIVATE)
    columns = ["private", "matched_in", "vulnerability", "distance", "reconstruction"]
    first = once.ranked["seed"] == 0
    assert twice.ranked[columns][first].equals(once.ranked[columns][first])
    assert twice.ranked[columns[:4]].equals(once.ranked[columns[:4]])
    swapped = vulnerable([OTHER, MADE], PRIVATE).ranked
    assert swapped["private"].tolist() == once.ranked["private"].tolist()
    assert (swapped["seed"] + once.ranked["seed"]).tolist() == [1] * 24
    copied = vulnerable([MADE, OTHER], joined(PRIVATE, tuple(x[:3] for x in PRIVATE)))
    assert copied.ranked["private"].tolist() == once.ranked["private"].tolist()
    assert any("3 private images are pixel-equal" in note for note in copied.notes)


def test_references_are_those_of_score_at_one_number_of_images(plain: Audit):
    other = score([MADE, OTHER], PRIVATE, holdout=HELD)
    assert plain.record["reference"] == {
        "images": 18,
        "ddcs": other.row("DDCS").value,
        "holdout": other.row("DDCS: holdout").value,
    }
    fewer = vulnerable(MADE, PRIVATE, public=(noise(7), None), prior=(noise(9, 1, 28, "prior"), None))
    assert {"images", "ddcs", "public", "prior"} == set(fewer.record["reference"])
    assert fewer.record["reference"]["images"] == 7
    assert fewer.record["reference"]["ddcs"] < fewer.record["ddcs"], "fewer images cover less"
    assert vulnerable(MADE, PRIVATE).record["reference"] is None


def test_a_small_budget_and_a_resize_are_those_of_score(plain: Audit):
    with pytest.raises(UserError, match="budget: expected at least 28 MB"):
        vulnerable(MADE, PRIVATE, budget=20 * 10**6)
    found = vulnerable([MADE, OTHER], PRIVATE, budget=28 * 10**6)
    assert found.ranked["private"].tolist() == plain.ranked["private"].tolist()
    assert vulnerable(MADE, PRIVATE, size=32).record["shape"] == [1, 32, 32]


def test_a_stored_reproduction_brings_its_private_images_and_references():
    run = PAPERS["patch_mi"].plan("smoke").find("BMI")
    run.stage.result("cpu")
    found = vulnerable("stored:patch_mi/BMI", profile="smoke")
    assert len(found.ranked) == found.record["images"]["private"] and "holdout" in found.record["reference"]


def test_every_shipped_generator_is_there():
    facts = {name: prior.facts() for name, prior in shipped().items()}
    assert {name: (f["channels"], f["size"]) for name, f in facts.items()} == {
        "faces-32": (3, 32),
        "faces-32-shifted": (3, 32),
        "faces-64": (3, 64),
    }
    assert all("shipped" in f for f in facts.values()), "read, not trained"


# --- the page ----------------------------------------------------------------------------------------------

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Every element with its attributes; open and closed tags must match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def test_the_page_is_whole_by_itself_and_its_tables_are_tables(plain: Audit):
    page = Page(plain.html)
    images = page.all("img")
    assert len(images) == 10 and all(i["src"].startswith("data:image/png;base64,") for i in images)
    assert len({i["alt"] for i in images}) == 10 and all(len(i["alt"]) > 20 for i in images)
    addresses = [a[name] for _, a in page.elements for name in ("src", "href") if name in a]
    assert all(address.startswith("data:") for address in addresses)
    counted = Counter(tag for tag, _ in page.elements)
    assert counted["script"] == 0 and counted["h1"] == counted["main"] == counted["title"] == 1
    assert "://" not in plain.html and "@import" not in plain.html and "url(" not in plain.html
    assert counted["table"] == counted["caption"] == counted["thead"] == counted["tbody"] == 2
    assert all(cell["scope"] in ("col", "row") for cell in page.all("th"))
    rows = len([1 for cell in page.all("th") if cell["scope"] == "row"])
    assert rows == counted["tr"] - 2, "each row of a body has its header"
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert sorted(ids) == sorted(set(ids)) and {a["aria-labelledby"] for a in page.all("section")} == set(ids)
    assert page.elements[0] == ("html", {"lang": "en"})
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in plain.html


def test_the_page_says_what_follows_and_what_does_not(plain: Audit):
    words = Page(plain.html).words
    assert "Coverage and DDCS rise with the number of reconstructions alone" in words
    assert "No attack seen is not safety" in words and "all at 18 images" in words
    assert "reference: DDCS of 18 private images that the classifier has not seen" in words
    bare = Page(vulnerable(MADE, PRIVATE).html).words
    assert "No reference images were given, so this page cannot tell" in bare
    unmatched = int((plain.ranked["matched_in"] == 0).sum())
    assert f"{unmatched} of 24 private images are matched in no seed" in words


def test_names_of_the_users_cannot_write_into_the_page(tmp_path: Path):
    names = ["<img src=x onerror=alert(1)>", "a & b", '"quoted"']
    private = saved(tmp_path / "private", PRIVATE[0], [names[i % 3] for i in range(24)])
    made = saved(tmp_path / "made", MADE[0], [names[i % 3] for i in range(18)])
    found = vulnerable(made, private)
    page = Page(found.html)
    assert all(image["src"].startswith("data:") for image in page.all("img"))
    assert "class <img src=x onerror=alert(1)>" in page.words and "class a & b" in page.words
    assert any('"quoted"' in image["alt"] for image in page.all("img"))


def pictures(found: Audit) -> list[Image.Image]:
    """The images of the page, in its order."""
    sources = [image["src"].partition(",")[2] for image in Page(found.html).all("img")]
    return [Image.open(io.BytesIO(base64.b64decode(source))) for source in sources]


def test_the_page_shows_each_private_image_beside_its_own_reconstruction(plain: Audit):
    shown = [torch.from_numpy(np.array(picture)) for picture in pictures(plain)]
    fakes = [MADE[0], OTHER[0]]
    for i, row in enumerate(plain.ranked.head(5).itertuples()):
        assert torch.equal(shown[2 * i], PRIVATE[0][row.private, 0])
        assert torch.equal(shown[2 * i + 1], fakes[row.seed][row.reconstruction, 0])


def test_large_images_are_shown_smaller_and_in_colour():
    images = noise(2, 3, 200)
    found = vulnerable((images, [0, 1]), (images, [0, 1]))
    assert [(picture.size, picture.mode) for picture in pictures(found)] == [((160, 160), "RGB")] * 4


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no browser at /usr/bin/chromium")
@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (360, "dark"), (1000, "light")])
def test_a_browser_shows_the_page_without_sideways_scrolling(plain: Audit, tmp_path: Path, width: int, scheme: str):
    sync_api = pytest.importorskip("playwright.sync_api")
    plain.write(tmp_path / "out")
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        asked, said = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.goto((tmp_path / "out" / "vulnerable.html").as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth")
        drawn = page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        browser.close()
    assert wide <= width and drawn and said == []
    assert paper == ("rgb(23, 23, 26)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert [url for url in asked if not url.startswith("data:")] == [(tmp_path / "out" / "vulnerable.html").as_uri()]


# --- files and the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reconstructions, private images and a net as a user has them; the net says class 3 of everything."""
    root = tmp_path_factory.mktemp("files")
    saved(root / "private", PRIVATE[0], [str(c) for c in PRIVATE[1].tolist()])
    saved(root / "holdout", HELD[0], [str(c) for c in HELD[1].tolist()])
    saved(root / "large", noise(3, 1, 32), ["3", "7", "11"])
    saved(root / "far", noise(2), ["3", "12"])
    (root / "empty").mkdir()
    np.savez(root / "My attack.npz", images=MADE[0].numpy(), labels=MADE[1].numpy())
    np.savez(root / "two.npz", images=noise(3, 2).numpy(), labels=[3, 7, 11])
    np.savez(root / "wide.npz", images=noise(3, 3, 40).numpy()[:, :, :30], labels=[3, 7, 11])
    for name, said in (("net", 3), ("wrong", 0)):
        torch.manual_seed(0)
        content = get_model("mobilenet_v3_small", weights=None, num_classes=12).state_dict()
        content["classifier.3.bias"][said] += 100
        save_file(content, root / f"{name}.safetensors")
        (root / f"{name}.yaml").write_text(NET.format(name).strip("{}").replace(", ", "\n"))
    return root


NET = "{{arch: mobilenet_v3_small, weights: {}.safetensors, classes: 12, size: 32}}"


def test_the_command_writes_list_record_and_page(files: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(files)
    out = tmp_path / "out"
    given = ["vulnerable", "My attack.npz", "--private", "private", "--holdout", "holdout", "--top", "3"]
    assert main([*given, "--out", str(out)]) == 0
    printed, _ = capsys.readouterr()
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    assert re.search(r"^1\. private (3|7|11)/\d+.png: s = 0\.\d+, matched in 1 of 1 seeds", printed, re.MULTILINE)
    assert sorted(p.name for p in out.iterdir()) == FILES
    found = json.loads((out / "vulnerable.json").read_text())
    expected = vulnerable("My attack.npz", "private", holdout="holdout", top=3)
    assert (found["trunk"], found["transform"]) == ("ST-LPIPS (AlexNet)", "recip1p")
    assert found["images"] == {"reconstructions": [18], "private": 24, "holdout": 21}
    assert (found["ddcs"], found["coverage"]) == (expected.record["ddcs"], expected.record["coverage"])
    assert found["reference"]["images"] == 18 and found["attack"] is None
    assert found["provenance"]["packages"]["torch"] and found["options"]["private"] == "private"
    listed = pd.read_csv(out / "vulnerable.csv")
    assert listed["private"].tolist() == [row["private"] for row in found["ranked"]] and len(listed) == 24
    assert listed["file"].str.match(r"(3|7|11)/\d+.png").all()
    assert len(Page((out / "vulnerable.html").read_text()).all("img")) == 6
    for name in FILES:
        assert str(files) not in (out / name).read_text() and str(tmp_path) not in (out / name).read_text()
    assert main([*given, "--out", str(out)]) == 2
    assert "out: expected a new or empty folder" in capsys.readouterr().err


def test_the_folder_has_the_name_of_the_target(files: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["vulnerable", str(files / "My attack.npz"), "--private", str(files / "private")]) == 0
    assert sorted(p.name for p in (tmp_path / "vulnerable" / "my-attack").iterdir()) == FILES
    assert "everything in vulnerable/my-attack" in capsys.readouterr().out
    assert named_after(NET.format("a/Net 1")) == "net-1" and named_after("x/net.yaml") == "net"


def test_a_failure_leaves_no_half_written_folder(plain: Audit, tmp_path: Path, monkeypatch):
    calls = []
    write = folder.write

    def second_fails(path: Path, content: str) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError("disk full")
        write(path, content)

    monkeypatch.setattr(folder, "write", second_fails)
    with pytest.raises(OSError, match="disk full"):
        plain.write(tmp_path / "out")
    assert len(calls) == 2 and list(tmp_path.iterdir()) == []


ATTACK = "My attack.npz"
GIVEN = ["--private", "private"]
FACES = ["--prior", "faces-32"]
BAD = [
    ([ATTACK], "private: expected the private images, found none"),
    (["nowhere.npz", *GIVEN], "found no file or folder nowhere.npz"),
    ([ATTACK, "--private", "nowhere"], "private: expected a folder"),
    ([ATTACK, "--private", "empty"], "expected one subfolder per class with image files in it, found no subfolder in"),
    ([ATTACK, "--private", "large"], "size: expected private images' 32×32 px, found reconstructions, seed 0 28×28"),
    (["large", *GIVEN], "size: expected private images' 28×28 px, found reconstructions, seed 0 32×32; add --size 28"),
    (["two.npz", *GIVEN], "1 or 3 channels, found (3, 2, 28, 28)"),
    ([ATTACK, *GIVEN, "--holdout", "large"], "size: expected private images' 28×28 px, found holdout 32×32"),
    (["far", *GIVEN], "found 1 of 2 without private images: 12"),
    ([ATTACK, *GIVEN, "--transform", "recip"], "transform: expected one of recip1p, exp, linear, found 'recip'"),
    ([ATTACK, *GIVEN, "--scope", "class"], "scope: expected one of global, label"),
    ([ATTACK, *GIVEN, "--seeds", "2"], "seeds: it is read by the attack on a classifier alone"),
    (["net.safetensors", *GIVEN], "TARGET: expected the architecture of net.safetensors, found the weights alone"),
    (["net.yaml", *GIVEN], "prior: expected the generator to attack a classifier with, found none; give --prior"),
    (["net.yaml", ATTACK, *GIVEN, *FACES], "TARGET: expected one classifier alone, found 2"),
    (["nowhere.yaml", *GIVEN, *FACES], "classifier: expected a mapping"),
    ([NET.format("nowhere"), *GIVEN, *FACES], "nowhere.safetensors: expected a file of weights"),
    ([NET.format("net").replace("12", "10"), *GIVEN, *FACES], "expected 10 outputs (10 classes), found 12"),
    (["net.yaml", "--private", "far", *FACES], "expected an output for each class id, found 12 classes and ids up to"),
    (["wrong.yaml", *GIVEN, *FACES], "expected the classifier of the private images, found 0.0% of them named right"),
    (["net.yaml", *GIVEN, "--prior", "nowhere.pkl"], "prior: expected faces-32, "),
    (["net.yaml", *GIVEN, "--prior", "net.safetensors"], "net.safetensors: expected a StyleGAN2 generator"),
    (["net.yaml", *GIVEN, *FACES, "--centre", "40"], "centre: expected 8..32 px of the generator's images, found 40"),
    (["net.yaml", *GIVEN, *FACES, "--holdout", "large"], "found holdout 32×32; add --size 28"),
    (
        ["net.yaml", "--private", "wide.npz", *FACES],
        "size: expected square private images to attack for, found 40×30; ",
    ),
    (["net.yaml", "--private", "{kind: faces, identities: 4, first: 1000, size: 32}", *FACES], "prior: expected other"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD)
def test_a_mistake_is_one_line_before_anything_long(files: Path, arguments, said, monkeypatch, capsys):
    monkeypatch.chdir(files)
    monkeypatch.setattr(distances, "embed", None)
    monkeypatch.setattr(attack, "run", None)
    assert main(["vulnerable", *arguments]) == 2
    printed, error = capsys.readouterr()
    assert printed == "" and said in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("error: ") and not (files / "vulnerable").exists()


# --- the attack on a classifier ----------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch, files: Path) -> Path:
    """A search of seconds, in the folder of the files."""
    monkeypatch.setattr(attack, "SEARCH", attack.SEARCH | {"pool": 12, "epochs": 2})
    monkeypatch.chdir(files)
    return files


def test_a_classifier_is_attacked_and_its_reconstructions_are_compared(short: Path):
    options = {"prior": "faces-32", "samples": 4, "workers": 1, "holdout": "holdout", "top": 2}
    found = vulnerable("net.yaml", "private", **options)
    assert found.record["images"] == {"reconstructions": [12, 12], "private": 24, "holdout": 21, "prior": 12}
    assert found.record["reference"].keys() == {"images", "ddcs", "prior", "holdout"}
    assert found.record["attack"]["accuracy_on_private"] == pytest.approx(1 / 3)
    assert found.record["attack"]["name"] == "Plug & Play on mobilenet_v3_small"
    assert found.record["shape"] == [3, 28, 28], "grey private images beside coloured ones"
    assert "grey, repeated over three channels: private, holdout" in found.notes
    words = Page(found.html).words
    assert "generator faces-32, 2 seeds, 4 images a class" in words and "names 33.3 % of the private" in words
    again = vulnerable(NET.format("net"), "private", **options)
    assert again.record["attack"]["keys"] == found.record["attack"]["keys"], "the same attack, read from the store"
    assert again.ranked.equals(found.ranked)


def test_a_generator_in_a_file_is_the_same_as_by_name(short: Path, tmp_path: Path):
    net = shipped()["faces-32"].generator("cpu")
    (tmp_path / "own.safetensors").write_bytes(stylegan2_files.packed(net))
    options = {"samples": 3, "seeds": 1, "workers": 1}
    named = vulnerable("net.yaml", "private", prior="faces-32", **options)
    of_file = vulnerable("net.yaml", "private", prior=tmp_path / "own.safetensors", **options)
    assert of_file.record["attack"]["keys"] != named.record["attack"]["keys"]
    assert of_file.ranked.equals(named.ranked)


def stages(target: str | ExternalClassifier, **options: object) -> list[attack.PlugAndPlayOnFile]:
    """The attacks that a request leads to."""
    request = Request([target], "private", prior="faces-32", workers=1, **options)
    made: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attack, "run", lambda stages, **_: made.extend(stages))
        patch.setattr(attack, "_made", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            attack.attacked(request, perceptual.load("st-lpips-alex"), torch.device("cpu"), lambda data: None)
    return made


def test_the_attack_is_told_of_class_ids_and_no_private_image(short: Path):
    one, two = stages("net.yaml", samples=4, centre=24)
    assert (one.seed, two.seed, one.classes, one.centre) == (0, 1, (3, 7, 11), 24)
    assert one.target.facts()["size"] == 28 and one.candidates == one.samples == 4 and one.draws == 0
    assert "private" not in one.recipe()
    x = torch.rand(2, 3, 28, 28) * 2 - 1
    net = one.target.network("cpu")
    expected = one.target.classifier.load("cpu")(x)
    assert torch.equal(net(x), expected) and torch.equal(net.head(net.features(x)), expected)


def test_samples_of_the_generator_ask_no_classifier(short: Path):
    (one,) = stages("net.yaml", samples=4, seeds=1)
    free = one.unaimed(torch.device("cpu"))
    other = one.model_copy(update={"target": one.target.model_copy(update={"classifier": wrong(short)})})
    assert free.shape == (12, 3, 28, 28) and torch.equal(free, other.unaimed(torch.device("cpu")))
    assert not torch.equal(free, one.model_copy(update={"seed": 1}).unaimed(torch.device("cpu")))


def wrong(root: Path) -> ExternalClassifier:
    return ExternalClassifier(arch="mobilenet_v3_small", weights=root / "wrong.safetensors", classes=12, size=32)


def test_a_diverged_search_is_one_line(short: Path, monkeypatch):
    def diverged(*_: object, **__: object) -> None:
        raise StageFailed("drift: expected styles within 5 standard deviations")

    monkeypatch.setattr(attack, "run", diverged)
    with pytest.raises(UserError, match="attack: drift: expected styles"):
        vulnerable("net.yaml", "private", prior="faces-32")
