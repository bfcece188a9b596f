from tools.models_page import PAGE, families, page


def test_the_page_of_models_is_made_from_the_table():
    assert PAGE.read_text() == page()


def test_no_class_is_in_two_rows_or_both_in_and_out():
    table = families()
    names = [name for family in table.FAMILIES for name in family.classes] + list(table.LEFT_OUT)
    assert len(names) == len(set(names))
