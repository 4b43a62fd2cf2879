/**
 * The connection: its token, its phases, and questions with their answers. When to connect again is left to
 * socket.io-client, except after a refusal, from which it does not come back by itself.
 */

import { Lifetime, growing } from "./lifetime.js";
import { AnswerError, mayRetry } from "./session.js";

const ANSWER_WITHIN_MS = 20_000;
const BETWEEN_RENEWALS_MS = 5_000;
const MOST_QUESTIONS = 200;

export class Link {
  /** What lasts as long as the connection that stands, or stood last. */
  connection = new Lifetime();
  state = { phase: "connecting", attempt: 0 };
  #life = new Lifetime();
  #session;
  #socket;
  #userId;
  #tell;
  #listeners = [];
  #questions = new Set();
  #token = null;
  #attempt = 0;
  #refusals = 0;
  #ending = null;
  #renewing = null;
  #renewedAt = -Infinity;

  /** `tell(type, detail)`: `state` {phase, …} whenever it changes, then `connected` {recovered}. */
  constructor({ io, url, options, session }, tell) {
    this.#session = session;
    this.#userId = session.user.id;
    this.#tell = tell;
    this.#socket = io(url, {
      autoConnect: false,
      forceNew: true,
      // Polls of one address all go to one server of a cluster; a websocket goes to any.
      transports: ["websocket", "polling"],
      tryAllTransports: true,
      ...options,
      auth: (answer) => this.#authenticate(answer),
    });
    this.on("connect", () => this.#connected());
    this.on("connect_error", (error) => this.#failed(error));
    this.on("disconnect", (reason) => this.#disconnected(reason));
    this.on("session_ended", (end) => (this.#ending = end));
    this.on("auth_expiring", () => this.#renew());
    this.#listen(this.#socket.io, "reconnect_attempt", (attempt) => {
      this.#attempt = attempt;
      this.#setState({ phase: "reconnecting", attempt });
    });
  }

  get isConnected() {
    return this.#socket.connected;
  }

  /** Call `handler` with the payload of each event of a name, until the end. */
  on(event, handler) {
    this.#listen(this.#socket, event, handler);
  }

  start() {
    this.#socket.connect();
  }

  /** Connect now instead of at the next attempt. */
  reconnect() {
    this.#life.end(new Error("connecting anew"));
    this.#life = new Lifetime();
    this.#refusals = 0;
    this.#setState({ phase: "connecting", attempt: 0 });
    this.#socket.disconnect().connect();
  }

  /** Leave for good. */
  stop() {
    const reason = new Error("the client was stopped");
    this.#life.end(reason);
    for (const [emitter, event, handler] of this.#listeners) emitter.off(event, handler);
    for (const question of [...this.#questions]) this.#settle(question, () => question.reject(reason));
    this.connection.end(reason);
    this.#socket.disconnect();
  }

  /**
   * Send an event, now or once connected, and resolve to its data. Rejects with AnswerError, or with another Error when
   * no answer came.
   */
  ask(event, payload, { withinMs = ANSWER_WITHIN_MS } = {}) {
    return new Promise((resolve, reject) => {
      const { phase, code = "unauthenticated", message } = this.state;
      if (phase === "refused" || phase === "ended") {
        reject(new AnswerError({ code, message }));
        return;
      }
      if (this.#life.isOver || this.#questions.size >= MOST_QUESTIONS) {
        reject(new Error("not sent"));
        return;
      }
      const question = { event, payload, resolve, reject, isSent: false };
      const giveUp = () => this.#settle(question, () => reject(new Error("no answer came in time")));
      question.timer = setTimeout(giveUp, withinMs);
      this.#questions.add(question);
      if (this.isConnected) this.#send(question);
    });
  }

  /** Send an event that needs no answer, if there is a connection. */
  say(event, payload) {
    if (this.isConnected) this.#socket.emit(event, payload);
  }

  #listen(emitter, event, handler) {
    emitter.on(event, handler);
    this.#listeners.push([emitter, event, handler]);
  }

  #send(question) {
    question.isSent = true;
    this.#socket.emit(question.event, question.payload, (answer) =>
      this.#settle(question, () => {
        if (answer?.ok) question.resolve(answer.data);
        else question.reject(new AnswerError(answer?.error ?? { code: "internal", message: "not an answer" }));
      }),
    );
  }

  #settle(question, work) {
    if (!this.#questions.delete(question)) return;
    clearTimeout(question.timer);
    work();
  }

  /** Called for each CONNECT; while it waits for a token, that connection may end and another one begin. */
  async #authenticate(answer) {
    const { engine } = this.#socket.io;
    const life = this.#life;
    const isOver = () => life.isOver || engine !== this.#socket.io.engine;
    try {
      const token = await this.#session.token();
      this.#requireSameUser();
      if (isOver()) return;
      this.#token = token;
      answer({ token, recovery: true });
    } catch (error) {
      if (isOver()) return;
      this.#socket.disconnect();
      if (mayRetry(error)) this.#comeBack();
      else this.#end(error);
    }
  }

  #requireSameUser() {
    if (this.#session.user?.id === this.#userId) return;
    throw new AnswerError({ code: "unauthenticated", message: "this user is no longer signed in" });
  }

  #connected() {
    this.connection = new Lifetime();
    this.#attempt = 0;
    this.#refusals = 0;
    const recovered = this.#socket.recovered === true;
    this.#setState({ phase: "connected", attempt: 0, recovered });
    this.#tell("connected", { recovered });
    for (const question of this.#questions) if (!question.isSent) this.#send(question);
  }

  #failed(error) {
    const { code, retry } = error.data ?? {};
    if (this.#socket.active) this.#setState({ phase: "reconnecting", attempt: this.#attempt });
    else if (retry === "refresh") this.#comeBack();
    else this.#setState({ phase: "refused", code, message: error.message });
  }

  /** Get a new token and connect with it: at once the first time, then later each time. */
  async #comeBack() {
    const life = this.#life;
    try {
      for (let token = null; token === null; ) {
        this.#refusals += 1;
        this.#setState({ phase: "reconnecting", attempt: this.#refusals });
        if (this.#refusals > 1) await life.pause(growing(this.#refusals - 2));
        token = await this.#session.token({ instead: this.#token }).catch((error) => {
          if (mayRetry(error)) return null;
          throw error;
        });
      }
      if (!life.isOver) this.#socket.connect();
    } catch (error) {
      if (!life.isOver) this.#end(error);
    }
  }

  /** The login is over. */
  #end({ code, message }) {
    this.#setState({ phase: "ended", code, message });
    this.#socket.disconnect();
  }

  #disconnected(reason) {
    const lost = new Error("the connection was lost");
    this.connection.end(lost);
    for (const question of [...this.#questions]) {
      if (question.isSent) this.#settle(question, () => question.reject(lost));
    }
    const end = this.#ending;
    this.#ending = null;
    if (reason === "io server disconnect") {
      this.#setState({ phase: "ended", code: end?.code, message: end?.message });
      // The server says so when it is asked for new tokens, and then the session forgets itself: unless it is another one.
      if (end?.code === "token_revoked") this.#session.token({ instead: this.#token }).catch(() => {});
    } else if (reason !== "io client disconnect") {
      this.#setState({ phase: "reconnecting", attempt: 0 });
    }
  }

  /** Go on with a new token. Should that fail, the server ends the connection, and the next one gets a new token. */
  async #renew() {
    const { connection } = this;
    if (this.#renewing === connection) return;
    this.#renewing = connection;
    try {
      const since = Date.now() - this.#renewedAt;
      if (since < BETWEEN_RENEWALS_MS) await connection.pause(BETWEEN_RENEWALS_MS - since);
      for (let failures = 0; !(await this.#isRenewed()); failures += 1) await connection.pause(growing(failures));
    } catch (error) {
      if (!connection.isOver && !(error instanceof AnswerError)) throw error;
    } finally {
      if (this.#renewing === connection) this.#renewing = null;
    }
  }

  async #isRenewed() {
    try {
      const token = await this.#session.token({ instead: this.#token });
      this.#requireSameUser();
      await this.ask("auth_refresh", { token });
      this.#token = token;
      this.#renewedAt = Date.now();
      return true;
    } catch (error) {
      if (mayRetry(error)) return false;
      throw error;
    }
  }

  #setState(state) {
    this.state = state;
    this.#tell("state", state);
  }
}
