"""The paper's tables on people beside a study's numbers."""

import json

import pytest

from study.made_up import make_study
from whybox.errors import WhyboxError
from whybox.study.paper_tables import STUDY_TABLES
from whybox.study.reproduce import reproduce_study, study_statement
from whybox.study.respondents import simulate

METHODS = ("odam", "gradcam", "drise:masks=500", "control_box")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made, root = [], tmp_path_factory.mktemp("studies")
    for name in ("trust_ranking", "better_detector", "discrimination"):
        settings = {} if name == "better_detector" else {"conditions": METHODS, "checks": 0, "count": 4}
        study = make_study(root / name, name, **settings)
        simulate(study, root / name, 3, careless=0)
        made.append(root / name)
    return made


def test_the_statement_computes_the_papers_test_again():
    text = study_statement(STUDY_TABLES["odam-table4"])
    assert "chi2(1) = 8.10, p = .004, Cohen's w 0.14, n = 401" in text
    assert "| ODAM | 53.8 | 35.4 | 8.9 | 1.9 | 1.6 |" in text
    text = study_statement(STUDY_TABLES["odam-table5"])
    assert "right answers, ODAM or D-RISE: chi2(1) = 47.54, p < .001" in text


def test_a_study_beside_table_4(folders, tmp_path):
    text = reproduce_study(STUDY_TABLES["odam-table4"], folders[:2], tmp_path / "out", better="new")
    assert text.count("nobody was asked") == 2
    told = json.loads((tmp_path / "out" / "table.json").read_text())["studies"]
    assert all(part["simulated"] for part in told.values())
    rows = {row["row"]: row for row in told["trust_ranking"]["rows"]}
    assert rows["ODAM"]["paper"]["average rank"] == 1.6
    assert 1 <= rows["D-RISE"]["ours"]["average rank"] <= 4
    assert rows["Grad-CAM++"]["ours"] is None
    assert rows["control_box"]["paper"] is None
    assert [(row["model"], row["paper"]) for row in told["better_detector"]["rows"]] == [
        ("new", 38.2),
        ("old", 28.6),
        ("no difference", 33.2),
    ]
    assert "no counts of 1200 answers" in (tmp_path / "out" / "table.md").read_text()


def test_a_study_beside_table_5(folders, tmp_path):
    text = reproduce_study(STUDY_TABLES["odam-table5"], folders[2:], tmp_path / "out")
    assert "| right, %, paper | simulated |" in text.splitlines()[2]
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["studies"]["discrimination"]["rows"]
    assert rows[3]["row"] == "ODAM"
    assert set(rows[3]["ours"]) == set(STUDY_TABLES["odam-table5"].heads)


def test_studies_that_do_not_fit(folders, tmp_path):
    table = STUDY_TABLES["odam-table4"]
    with pytest.raises(WhyboxError, match="a study of discrimination; odam-table4 takes one of each"):
        reproduce_study(table, [folders[2]], tmp_path / "out")
    with pytest.raises(WhyboxError, match="takes one of each"):
        reproduce_study(table, [folders[0], folders[0]], tmp_path / "out")
    with pytest.raises(WhyboxError, match="'newer' is no model of the study, which has old and new"):
        reproduce_study(table, [folders[1]], tmp_path / "out", better="newer")
    with pytest.raises(WhyboxError, match="no person finished"):
        reproduce_study(table, folders[:1], tmp_path / "out", simulated=False)
