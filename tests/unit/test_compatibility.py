"""The page of compatibility, from a JUnit file."""

from tools import compatibility, official
from tools.compatibility import page, read, save

JUNIT = """<testsuites><testsuite>
<testcase classname="host.test_laws" name="test_law_1_off_is_off[LTX-2]"><properties>
  <property name="error" value="0.0"/></properties></testcase>
<testcase classname="host.test_laws" name="test_law_4_a_reused_step_equals_per_block_reuse[LTX-2-torch.bfloat16]">
  <properties><property name="error" value="0.00212"/></properties></testcase>
<testcase classname="host.test_laws"
  name="test_law_5_a_run_that_was_stopped_holds_nothing_and_leaves_no_trace[LTX-2-block-RuntimeError]">
  <failure message="no"/></testcase>
<testcase classname="host.test_laws"
  name="test_law_2_the_model_is_untouched_and_a_second_run_equals_the_first[LTX-2-output]"/>
<testcase classname="host.test_laws" name="test_law_1_off_is_off[Mochi]">
  <skipped message="this ComfyUI has no Mochi"/></testcase>
<testcase classname="host.test_graphs" name="test_two_branches_do_not_see_each_other[a]"/>
<testcase classname="host.test_graphs" name="test_two_branches_do_not_see_each_other[b]">
  <skipped message="too old"/></testcase>
</testsuite></testsuites>"""


def stored(tmp_path):
    file = tmp_path / "results.xml"
    file.write_text(JUNIT)
    return {"0.33.0": {"made": "today", "results": [vars(result) for result in read(file)]}}


def test_a_cell_is_a_figure_a_failure_a_reason_or_a_dash(tmp_path):
    lines = page(stored(tmp_path)).splitlines()
    heads = next(line for line in lines if line.startswith("| model"))
    (row,) = (line for line in lines if line.startswith("| LTX-2"))
    cells = dict(zip(heads.split(" | "), row.split(" | "), strict=True))
    assert cells["off"] == "0"
    assert cells["reused, bf16"] == "0.002"
    assert cells["reused, fp16"] == "–"
    assert cells["stopped"] == "**failed**"
    assert cells["second run"] == "yes"
    assert any(line.startswith("| Mochi | this ComfyUI has no Mochi") for line in lines)


def test_other_tests_are_sentences_with_their_counts(tmp_path):
    assert "| two branches do not see each other (a, b) | 1 of 2; too old |" in page(stored(tmp_path)).splitlines()


def test_the_newest_host_comes_first(tmp_path):
    of_one = stored(tmp_path)["0.33.0"]
    heads = [line for line in page({"0.8.0": of_one, "0.33.0": of_one}).splitlines() if line.startswith("## ComfyUI")]
    assert heads == ["## ComfyUI 0.33.0", "## ComfyUI 0.8.0"]


def test_what_is_run_again_takes_the_place_of_its_own_old_results_only(tmp_path, monkeypatch):
    monkeypatch.setattr(compatibility, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(compatibility, "PAGE", tmp_path / "page.md")
    (tmp_path / "all.xml").write_text(JUNIT)
    again = JUNIT.replace('<failure message="no"/>', "").replace("[b]", "[new]")
    (tmp_path / "again.xml").write_text(again)
    save("0.33.0", "Made first.", read(tmp_path / "all.xml"))
    assert "**failed**" in (tmp_path / "page.md").read_text()
    save("0.33.0", "Made then.", read(tmp_path / "again.xml"), again=True)
    text = (tmp_path / "page.md").read_text()
    assert "**failed**" not in text
    assert "| two branches do not see each other (a, new) | 1 of 2; too old |" in text
    assert "Made first. Run again later, only test_laws, test_graphs: Made then." in text


OFFICIAL = """<testsuites><testsuite>
<testcase name="test_a_template[video_ltx2_3_t2v]"><properties><property name="title" value="Text"/>
  <property name="counted" value="[[6, 8], [3, 3]]"/><property name="notes" value='["2x is too much: why", "more"]'/>
  </properties></testcase>
<testcase name="test_a_template[video_ltx2_3_i2v]"><properties><property name="title" value="Picture"/>
  <property name="counted" value="[[6, 8], [3, 3]]"/><property name="notes" value='["2x is too much: why"]'/>
  </properties></testcase>
<testcase name="test_a_template[video_minimax_h3_t2v]"><properties><property name="title" value="H3"/>
  <property name="counted" value="[[9, 20]]"/><property name="notes" value="[]"/></properties></testcase>
<testcase name="test_a_template[video_minimax_h3_i2v]"><failure message="no"/></testcase>
<testcase name="test_a_template[video_minimax_h3_r2v]"><skipped message="no such node"/></testcase>
<testcase name="test_a_workflow_of_ours_is_run[ltx2_adacache]"/>
</testsuite></testsuites>"""


def test_the_table_for_users_joins_the_templates_of_which_the_same_was_found(tmp_path, monkeypatch):
    monkeypatch.setattr(official, "STORED", tmp_path / "official.json")
    (tmp_path / "official.xml").write_text(OFFICIAL)
    official.save("0.33.0", tmp_path / "official.xml")
    rows = [line for line in official.section().splitlines() if line.startswith("| ")][2:]
    assert rows == [
        "| MiniMax-H3 | yes | yes: 11 of 20 steps skipped | H3 |",
        "| MiniMax-H3 | failed | – | video_minimax_h3_i2v |",
        "| MiniMax-H3 | no such node | – | video_minimax_h3_r2v |",
        "| LTX-2.3 | yes | a little: 2 of 8 and 0 of 3 steps skipped (2x is too much) | Text; Picture |",
    ]
