"""Categories: they are made, renamed and deleted, and no two share a name."""

import pytest
from sqlalchemy.exc import IntegrityError

from models import Category, db


@pytest.fixture
def make_category(client, admin):
    """Make a category as an admin does, and return the response."""
    return lambda name="Music": client.post("/categories", json={"name": name}, headers=admin.headers)


def names():
    return db.session.scalars(db.select(Category.name).order_by(Category.id)).all()


class TestGetCategories:
    def test_anyone_sees_id_and_name(self, client, make_category):
        made = [make_category(name).get_json() for name in ("Music", "Art")]
        answer = client.get("/categories")
        assert (answer.status_code, answer.get_json()) == (200, made)
        assert all(set(category) == {"id", "name"} for category in made)


class TestGetCategory:
    def test_anyone_finds_it_where_location_says(self, client, make_category):
        made = make_category()
        answer = client.get(made.headers["Location"])
        assert (answer.status_code, answer.get_json()) == (200, made.get_json())

    def test_unknown_one_is_404(self, client):
        assert client.get("/categories/2147483647").status_code == 404


class TestPostCategories:
    def test_makes_it(self, make_category, context):
        answer = make_category("  Theatre & Dance ")
        [category] = db.session.scalars(db.select(Category))
        assert (answer.status_code, answer.get_json()) == (201, {"id": category.id, "name": "Theatre & Dance"})

    def test_name_has_a_longest(self, make_category, context):
        assert (make_category("é" * 100).status_code, make_category("e" * 101).status_code) == (201, 400)
        assert names() == ["é" * 100]

    @pytest.mark.parametrize(
        "first, second",
        [("Music", "Music"), ("Music", " mUSIC "), ("Ópera", "óPERA"), ("Straße", "STRASSE"), ("ΟΔΟΣ", "οδος")]
        + [("Café", "CAFE\u0301"), ("ᾴ", "Α\u0301\u0345")],
    )
    def test_name_taken_in_any_case_and_spelling(self, make_category, context, first, second):
        make_category(first)
        answer = make_category(second)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "name_taken")
        assert names() == [first]


class TestPatchCategory:
    @pytest.fixture
    def rename(self, client, admin, make_category):
        """Rename the category Music, and return the response."""
        id = make_category("Music").get_json()["id"]
        return lambda **fields: client.patch(f"/categories/{id}", json=fields, headers=admin.headers)

    def test_renames_it(self, rename, context):
        answer = rename(name="Concerts", id=77)
        assert (answer.status_code, answer.get_json()["name"]) == (200, "Concerts")
        assert names() == ["Concerts"]

    def test_its_own_name_in_another_case_is_free(self, rename, context):
        assert rename(name="MUSIC").status_code == 200
        assert names() == ["MUSIC"]

    def test_no_name_changes_nothing(self, rename):
        answer = rename()
        assert (answer.status_code, answer.get_json()["name"]) == (200, "Music")

    def test_name_taken_in_any_case(self, rename, make_category, context):
        make_category("Öffentlich")
        answer = rename(name="öFFENTLICH")
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "name_taken")
        assert names() == ["Music", "Öffentlich"]


class TestDeleteCategory:
    def test_deletes_it(self, client, admin, make_category, context):
        path = f"/categories/{make_category().get_json()['id']}"
        answer = client.delete(path, headers=admin.headers)
        assert (answer.status_code, answer.data) == (204, b"")
        assert names() == []

    @pytest.mark.parametrize("status", ["draft", "published", "canceled"])
    def test_in_use_by_any_event(self, client, admin, make_category, make_event, context, status):
        id = make_category().get_json()["id"]
        make_event(category_id=id, status=status)
        answer = client.delete(f"/categories/{id}", headers=admin.headers)
        assert (answer.status_code, answer.get_json()["reason"]) == (409, "in_use")
        assert names() == ["Music"]


class TestConstraints:
    @pytest.mark.parametrize("values", [{"folded": "music"}, {"name": None}, {"folded": None}])
    def test_database_refuses_a_bad_row(self, make_category, context, values):
        make_category("Music"), make_category("Art")
        with pytest.raises(IntegrityError):
            db.session.execute(db.update(Category).where(Category.name == "Art").values(**values))

    def test_database_keeps_a_category_in_use(self, make_event, context):
        make_event()
        with pytest.raises(IntegrityError):
            db.session.execute(db.delete(Category))
