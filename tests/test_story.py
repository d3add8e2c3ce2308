"""From an event to the door: begin here."""

from datetime import UTC, datetime, timedelta


def test_from_event_to_door(client, admin, staff, buyer):
    starts_at = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
    times = {"starts_at": starts_at.isoformat(), "ends_at": (starts_at + timedelta(hours=3)).isoformat()}
    category = client.post("/categories", json={"name": "Concerts"}, headers=admin.headers).get_json()
    about = {"name": "Open Air", "description": "Three bands.", "venue": "City Park", "category_id": category["id"]}
    event = client.post("/events", json={**about, **times, "status": "published"}, headers=admin.headers).get_json()
    offer = {"name": "Regular", "price": 2500, "quantity": 200}
    path = f"/events/{event['id']}"
    ticket_type = client.post(f"{path}/ticket-types", json=offer, headers=admin.headers).get_json()

    items = [{"ticket_type_id": ticket_type["id"], "quantity": 2}]
    order = client.post("/orders", json={"items": items}, headers=buyer.headers).get_json()
    assert (order["status"], order["total"]) == ("pending", 5000)
    assert client.get(path).get_json()["ticket_types"][0]["available"] == 198

    cash = {"method": "cash", "amount": 5000}
    assert client.post(f"/orders/{order['code']}/payments", json=cash, headers=staff.headers).status_code == 201
    tickets = client.get("/tickets", headers=buyer.headers).get_json()
    assert [ticket["status"] for ticket in tickets] == ["valid", "valid"]

    door = f"/tickets/{tickets[0]['code']}/check-in"
    assert client.post(door, headers=staff.headers).get_json()["message"] == "Welcome"
    assert client.post(door, headers=staff.headers).get_json()["reason"] == "already_checked_in"
    sales = client.get(f"{path}/sales", headers=admin.headers).get_json()["total"]
    assert (sales["sold"], sales["checked_in"], sales["revenue"]) == (2, 1, 5000)
