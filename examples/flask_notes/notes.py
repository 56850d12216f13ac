"""Notes that last as long as the session. Start it with ``flask --app notes:make_app run``."""

from datetime import UTC, datetime
from hmac import compare_digest
from typing import Any

from flask import Flask, Response, abort, flash, get_flashed_messages, redirect, request, session

from sojourn.adapters.flask import Sessions

PASSWORDS = {"user-7": "correct horse"}  # yours are hashed and in a database


def make_app(store: Any = "local:", **settings: Any) -> Flask:
    app = Flask(__name__)
    Sessions(app, store=store, **settings)
    app.add_url_rule("/", view_func=show)
    app.add_url_rule("/notes", view_func=add, methods=["POST"])
    app.add_url_rule("/notes/<int:number>/delete", view_func=delete, methods=["POST"])
    app.add_url_rule("/login", view_func=log_in, methods=["POST"])
    app.add_url_rule("/logout", view_func=log_out, methods=["POST"])
    return app


def show() -> dict[str, Any]:
    notes = [{**note, "at": note["at"].isoformat()} for note in session.get("notes", [])]
    return {"user": session.principal, "notes": notes, "messages": get_flashed_messages()}


def add() -> Response:
    note = {"text": request.form["text"], "at": datetime.now(UTC)}  # a datetime comes back as a datetime
    session.setdefault("notes", []).append(note)  # no session.modified = True
    flash("Noted.")
    return redirect("/", 303)


def delete(number: int) -> Response:
    if number >= len(session.get("notes", [])):
        abort(404)
    del session["notes"][number]
    return redirect("/", 303)


def log_in() -> Response:
    password = PASSWORDS.get(request.form["name"])
    if password is None or not compare_digest(password.encode(), request.form["password"].encode()):
        abort(401)
    session.login(request.form["name"])  # a new id; the notes are kept
    session.permanent = "remember" in request.form
    return redirect("/", 303)


def log_out() -> Response:
    session.logout()
    return redirect("/", 303)
