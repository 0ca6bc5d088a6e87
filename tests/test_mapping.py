"""The user's own elements: the CSV file that names them."""

from __future__ import annotations

import pytest

from pyflowx.elements import DATA_TYPES, default_registry, read_mapping
from pyflowx.errors import ConfigError

HEAD = "id,enterprise_number,name,data_type\n"


def test_elements_of_a_mapping_are_found_by_identity_and_name() -> None:
    registry = default_registry().copy()
    for element in read_mapping((HEAD + "17,55555,vendorScore,unsigned16\n18,55555,vendorText,String\n").splitlines()):
        registry.add(element)
    assert registry.get(55555, 17).name == "vendorScore"
    assert registry.get(55555, 17).data_type is DATA_TYPES["unsigned16"]
    found = registry.by_name("vendorText")
    assert found is not None and (found.pen, found.id) == (55555, 18)


def test_a_mapping_takes_columns_in_any_order_and_an_empty_enterprise_number() -> None:
    (element,) = read_mapping(["name,data_type,id,enterprise_number", "x,Ipv4Address,600,"])
    assert (element.pen, element.id, element.data_type.name) == (0, 600, "ipv4Address")


@pytest.mark.parametrize("name", sorted(DATA_TYPES))
def test_a_mapping_takes_data_types_in_pascal_case(name: str) -> None:
    (element,) = read_mapping((HEAD + f"1,9,x,{name[0].upper()}{name[1:]}").splitlines())
    assert element.data_type is DATA_TYPES[name]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("32768,1,x,string", r"line 3: id '32768': use a number from 0 to 32767"),
        ("-1,1,x,string", r"line 3: id '-1'"),
        ("1,4294967296,x,string", r"line 3: enterprise_number '4294967296'"),
        ("1,1,,string", r"line 3: name ''"),
        ("1,1,a/b,string", r"line 3: name 'a/b'"),
        ("1,1,x,unsigned12", r"line 3: data_type 'unsigned12': use one of octetArray, unsigned8"),
        ("1,1", r"line 3: name ''"),
    ],
)
def test_a_bad_row_names_its_line_and_what_is_accepted(row: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_mapping((HEAD + "1,1,good,string\n" + row).splitlines())


@pytest.mark.parametrize("text", ["", "1,2,x,string\n", "id,name\n"])
def test_a_mapping_without_its_header_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="line 1: the columns id,enterprise_number,name,data_type are needed"):
        read_mapping(text.splitlines())


def test_what_is_not_csv_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match="line 1: field larger than field limit"):
        read_mapping([HEAD, "1,1," + "x" * 200_000 + ",string"])
