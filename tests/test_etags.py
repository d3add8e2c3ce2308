"""Entity tags of what can be changed: they come with every answer that shows it whole, and guard its changes."""

import pytest

from .conftest import together

NEW = {
    "categories": {"name": "Music"},
    "events": {"name": "Concert", "description": "Music", "venue": "Hall", "starts_at": "2050-01-01T20:00:00Z"}
    | {"ends_at": "2050-01-01T22:00:00Z", "status": "published"},
    "ticket-types": {"name": "Regular", "price": 2500, "quantity": 10},
}


@pytest.fixture(params=NEW)
def kind(request):
    return request.param


@pytest.fixture
def made(client, admin, kind, make_event):
    """The answer to an admin who has made one of this kind."""
    post = lambda path, body: client.post(path, json=body, headers=admin.headers)  # noqa: E731
    if kind == "events":
        category = post("/categories", {"name": "Any"}).get_json()["id"]
        return post("/events", NEW[kind] | {"category_id": category})
    return post(f"/events/{make_event()}/ticket-types" if kind == "ticket-types" else f"/{kind}", NEW[kind])


@pytest.fixture
def path(made):
    return made.headers["Location"]


@pytest.fixture
def change(client, admin, path):
    """Change it if it matches, and return the response; DELETE without fields."""

    def send(tag, **fields):
        headers = admin.headers | ({"If-Match": tag} if tag is not None else {})
        return client.open(path, method="PATCH" if fields else "DELETE", json=fields or None, headers=headers)

    return send


class TestTag:
    def test_of_what_was_made_is_that_of_get(self, client, made, path):
        answer = client.get(path)
        assert (answer.headers["ETag"], answer.get_json()) == (made.headers["ETag"], made.get_json())

    def test_of_what_was_changed_is_that_of_get(self, client, change, path):
        changed, answer = change(None, name="Other"), client.get(path)
        assert (answer.headers["ETag"], answer.get_json()) == (changed.headers["ETag"], changed.get_json())

    def test_saves_who_has_it_the_answer(self, client, made, path):
        answer = client.get(path, headers={"If-None-Match": made.headers["ETag"]})
        assert (answer.status_code, answer.headers["ETag"]) == (304, made.headers["ETag"])

    def test_is_another_after_a_change_and_back(self, change, made, kind):
        change(None, name="Other")
        assert change(None, name=NEW[kind]["name"]).headers["ETag"] != made.headers["ETag"]


class TestIfMatch:
    @pytest.mark.parametrize("tags", ["{}", "W/{}", "*", '"", "x", {}'])
    def test_what_was_seen_may_be_changed(self, made, change, tags):
        assert change(tags.format(made.headers["ETag"]), name="Other").status_code == 200

    @pytest.mark.parametrize("tags", ["{}", "W/{}", "*", '"", "x", {}'])
    def test_what_was_seen_may_be_deleted(self, client, made, change, path, tags):
        assert change(tags.format(made.headers["ETag"])).status_code == 204
        assert client.get(path).status_code == 404

    @pytest.mark.parametrize("fields", [{"name": "Third"}, {}])
    def test_what_has_changed_since_may_not(self, client, made, change, path, fields):
        change(None, name="Other")
        answer = change(made.headers["ETag"], **fields)
        assert (answer.status_code, answer.get_json()["reason"]) == (412, "outdated")
        assert client.get(path).get_json()["name"] == "Other"

    @pytest.mark.parametrize("fields", [{"name": "Other"}, {}])
    @pytest.mark.parametrize("tags", ["", '""', "x", '"x"', '"None-"', '"-"'])
    def test_a_foreign_tag_names_no_version(self, change, tags, fields):
        assert change(tags, **fields).status_code == 412

    def test_a_tag_in_a_chain_of_changes_stays_good(self, change, made):
        tag = made.headers["ETag"]
        for name in ("One", "Two", "Three"):
            answer = change(tag, name=name)
            assert answer.status_code == 200
            tag = answer.headers["ETag"]

    def test_of_two_at_once_one_is_told(self, app, client, admin, made, path):
        headers = {**admin.headers, "If-Match": made.headers["ETag"]}
        answers = together(app, *[("PATCH", path, {"name": f"Name {n}"}, headers) for n in range(3)])
        assert sorted(answer.status_code for answer in answers) == [200, 412, 412]

    def test_change_and_deletion_at_once_are_one_or_the_other(self, app, client, admin, made, path):
        headers = {**admin.headers, "If-Match": made.headers["ETag"]}
        changed, deleted = together(app, ("PATCH", path, {"name": "Other"}, headers), ("DELETE", path, None, headers))
        assert (changed.status_code, deleted.status_code) in [(200, 412), (404, 204)]


class TestSales:
    @pytest.mark.parametrize("kind", ["events", "ticket-types"], indirect=True)
    def test_make_no_new_version(self, client, change, made, path, buyer, place, make_ticket_type):
        id = made.get_json()["id"]
        ticket_type = id if "ticket-types" in path else make_ticket_type(id)
        tag = client.get(path).headers["ETag"]
        assert place(buyer, ticket_type).status_code == 201
        assert client.get(path).headers["ETag"] != tag
        assert change(tag, name="Other").status_code == 200
