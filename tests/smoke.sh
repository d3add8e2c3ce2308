#!/usr/bin/env bash
# A first client: sign up, log in, make an admin, list the users, over HTTP at http://localhost:$PORT.
set -euo pipefail
api=http://localhost:${PORT:-5000}
name=smoke-$RANDOM$RANDOM
json() { python3 -c "import json, sys; print(json.load(sys.stdin)[\"$1\"])"; }
post() { curl -fsS -X POST "$api$1" -H 'Content-Type: application/json' -d "$2"; }

post /sign-up "{\"name\": \"Buyer\", \"email\": \"$name@example.com\", \"password\": \"correct horse\"}" | grep -q 'User created successfully'
post /login "{\"email\": \"$name@example.com\", \"password\": \"correct horse\"}" | grep -q 'Login successful'
pipenv run flask create-admin --name Admin --email "$name-admin@example.com" --password 'correct horse'
token=$(post /login "{\"email\": \"$name-admin@example.com\", \"password\": \"correct horse\"}" | json access_token)
curl -fsS "$api/users" -H "Authorization: Bearer $token" | grep -q "$name@example.com"
curl -fsS "$api/openapi.json" | grep -q '"openapi"'
echo "A first client was served at $api."
