"""MUREL and Wikipedia from local copies: which passages there are, in which order, and where they are cut."""

from __future__ import annotations

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gatescope as gs
from gatescope.data import murel, wikipedia

LESS = pytest.mark.filterwarnings("ignore:.* were asked for; what is there is used")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())


def texts(examples):
    return [e.prompt for e in examples]


# --- MUREL


class Words:
    """A tokenizer whose tokens are words; special ones are added unless that is forbidden."""

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [0] * (len(text.split()) + 2 * add_special_tokens)}


@pytest.fixture
def corpus(tmp_path):
    write(tmp_path / "data" / "da" / "novels" / "b.txt", "fem\n")
    write(tmp_path / "data" / "da" / "novels" / "a.txt", "en to\r\n\n  tre  \n")
    write(tmp_path / "data" / "da" / "idioms.txt", "\ufefffire\n")
    write(tmp_path / "data" / "da" / "notes.md", "no passage\n")
    write(tmp_path / "data" / "fa" / "x.txt", "یک دو\n")
    return tmp_path


@LESS
def test_passages_are_the_lines_of_all_files_in_the_order_of_their_paths(corpus):
    study = murel(corpus, groups=["da"], evaluation=1)
    assert texts(study.evaluation) + texts(study.identification) == ["fire", "en to", "tre", "fem"]
    assert [e.id for e in study.identification] == ["da/novels/a.txt:1", "da/novels/a.txt:3", "da/novels/b.txt:1"]
    one = study.identification[0]
    assert (one.group, one.chat, one.choices) == ("da", False, ()) and one.facts == {"language": "da", "file": "novels/a.txt"}


@LESS
def test_languages_are_found_with_or_without_data_above_them(corpus):
    assert {e.group for e in murel(corpus).evaluation} == {"da", "fa"}
    assert murel(corpus / "data") == murel(corpus)


def test_the_start_of_a_language_is_evaluated_on_and_what_follows_identified_on(corpus):
    # Characters: fire 4, en to 5, tre 3, fem 3. The passage that reaches a limit is the last.
    study = murel(corpus, groups=["da"], evaluation=5, identification=3)
    assert (texts(study.evaluation), texts(study.identification)) == (["fire", "en to"], ["tre"])
    assert study.notes["split"] == "of each language 5 characters are evaluated on, the next 3 identified on"


def test_with_a_tokenizer_the_cut_is_made_by_tokens_without_special_ones(corpus):
    study = murel(corpus, groups=["da"], evaluation=3, identification=1, tokenizer=Words())
    assert (texts(study.evaluation), texts(study.identification)) == (["fire", "en to"], ["tre"])
    assert study.notes["split"] == "of each language 3 tokens are evaluated on, the next 1 identified on"


def test_too_little_text_is_used_and_told(corpus):
    told = "MUREL: fa has 5 characters to evaluate on and 0 to identify on, where 100,000 and 10,000,000 were asked for"
    with pytest.warns(UserWarning, match=told):
        assert texts(murel(corpus, groups=["fa"]).evaluation) == ["یک دو"]


def test_a_line_that_is_not_utf8_is_named_by_file_and_line(corpus):
    write(corpus / "data" / "da" / "novels" / "a.txt", b"en\nto\nt\xe6r\n")
    with pytest.raises(gs.GatescopeError, match=r"MUREL: .*novels/a.txt, line 3: not UTF-8"):
        murel(corpus, groups=["da"])


def test_where_murel_is_not_the_sentence_says_so(corpus):
    (corpus / "empty").mkdir()
    for path, message in (
        (None, "MUREL is not on the hub: give path= with a copy of https://github.com/namazifard/Culture_Neurons"),
        (corpus / "none", "path=.*none' is not a directory"),
        (corpus / "empty", r"no .txt file in .*/<language> or .*/data/<language>, for none of en, de, da, zh, ru, fa"),
    ):
        with pytest.raises(gs.GatescopeError, match=message):
            murel(path)
    with pytest.raises(gs.GatescopeError, match=r"MUREL has no 'de'; it has 'da', 'fa'\."):
        murel(corpus, groups=["de"])
    with pytest.raises(gs.GatescopeError, match="MUREL: evaluation and identification must be 1 or more; got 0 and 1"):
        murel(corpus, evaluation=0, identification=1)


# --- Wikipedia


def article(number, text="A text.", **more):
    return {"id": str(number), "url": f"https://xx.example/{number}", "title": f"T{number}", "text": text} | more


def dump(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.fixture
def copy(tmp_path):
    dump(tmp_path / "20231101.ja" / "train-00000-of-00002.parquet", [article(n, f"Text {n}.") for n in range(3)])
    dump(tmp_path / "20231101.ja" / "train-00001-of-00002.parquet", [article(n, f"Text {n}.") for n in range(3, 9)])
    dump(tmp_path / "vi" / "part.parquet", [article(1, "  \n"), article(2, "Twelve chars and more."), article(3), article(4)])
    return tmp_path


def test_the_first_articles_of_each_language_are_cut_in_half(copy):
    study = wikipedia(copy, languages=("ja", "vi"), articles=3)
    assert [(e.id, e.group) for e in study.identification] == [("ja/0", "ja"), ("vi/2", "vi")]
    assert [e.id for e in study.evaluation] == ["ja/1", "ja/2", "vi/3", "vi/4"]  # the article without text is not counted
    one = study.identification[0]
    assert (one.prompt, one.chat) == ("Text 0.", False)
    assert one.facts == {"language": "ja", "title": "T0", "url": "https://xx.example/0"}
    assert study.notes["dump"] == "20231101"


def test_articles_go_on_in_the_next_file(copy):
    study = wikipedia(copy, languages=["ja"], articles=8)
    assert [e.id for e in (*study.identification, *study.evaluation)] == [f"ja/{n}" for n in range(8)]


def test_an_article_is_cut_after_so_many_characters(copy):
    assert texts(wikipedia(copy, languages=["vi"], articles=2, max_chars=12).identification) == ["Twelve chars"]


def test_fewer_articles_than_asked_for_are_used_and_told(copy):
    with pytest.warns(UserWarning, match="wikipedia: 9 articles in 'ja', where 1000 were asked for; what is there is used"):
        assert len(wikipedia(copy, languages=["ja"]).evaluation) == 5


def test_another_dump_is_another_directory(copy):
    dump(copy / "20250101.ja" / "train.parquet", [article(n) for n in (70, 71)])
    assert [e.id for e in wikipedia(copy, languages=["ja"], articles=2, date="20250101").evaluation] == ["ja/71"]


@LESS
def test_what_is_wrong_with_a_copy_is_said_in_a_sentence(copy):
    dump(copy / "de" / "a.parquet", [{"id": "1", "text": "x"}])
    write(copy / "fr" / "a.parquet", b"no parquet")
    for languages, message in (
        (["da"], r"wikipedia: nothing in .* is called '20231101.da/\*.parquet' or 'da/\*.parquet'"),
        (["de"], r"wikipedia: .* \(de\) has no column 'url', 'title'; the columns found are \['id', 'text'\]"),
        (["fr"], r"wikipedia: .* \(fr\) cannot be read: \w+: .*give path= with a local copy"),
        ([], r"wikipedia needs a language, two articles and one character at least; got languages=\(\)"),
    ):
        with pytest.raises(gs.GatescopeError, match=message):
            wikipedia(copy, languages=languages)
    with pytest.raises(gs.GatescopeError, match=r"part.parquet is one file; name its one language, not ja, vi"):
        wikipedia(copy / "vi" / "part.parquet", languages=["ja", "vi"])
    assert len(wikipedia(copy / "vi" / "part.parquet", languages=["vi"]).evaluation) == 2


def test_from_the_hub_only_the_articles_asked_for_are_fetched(monkeypatch):
    asked, fetched = [], []

    def hub(name, config, **how):
        asked.append((name, config, how))
        return (fetched.append(n) or article(n) for n in range(10**9))

    monkeypatch.setattr(datasets, "load_dataset", hub)
    study = wikipedia(languages=["id"], articles=4)
    assert asked == [("wikimedia/wikipedia", "20231101.id", {"split": "train", "streaming": True, "revision": None})]
    assert fetched == [0, 1, 2, 3] and len(study.identification) == len(study.evaluation) == 2


def test_without_a_network_the_way_out_is_a_local_copy(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(
        gs.GatescopeError, match=r"wikimedia/wikipedia \(20231101.en\) from the hub cannot be read: .*give path="
    ):
        wikipedia()
