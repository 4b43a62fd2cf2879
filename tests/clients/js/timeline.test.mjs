// One room's messages: what is taken, what is seen to be missing, and that no hole looks complete.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Timeline } from "../../../static/client/timeline.js";

const ME = "me";

function message(seq, rev = seq, more = {}) {
  return {
    id: `m${seq}`, room_id: "r", seq, rev, content: `text ${rev}`, sender: { id: "ana", display_name: "Ana" }, reply_to: null,
    reactions: {}, reaction_counts: {}, edited_at: null, deleted_at: null, ...more,
  };
}

/** As an answer shows it. */
const answered = (seq, rev, more) => message(seq, rev, { my_reaction: null, ...more });
const edited = (seq, rev, more) => message(seq, rev, { edited_at: "now", ...more });
const range = (first, last) => Array.from({ length: last - first + 1 }, (_, index) => answered(first + index));
const seqs = (timeline) => timeline.list().map(({ seq }) => seq);
const find = (timeline, seq) => timeline.list().find((each) => each.seq === seq);
const reaction = (seq, rev, userId, type, counts) => ({ seq, rev, user_id: userId, reaction_type: type, reaction_counts: counts });

/** The answer to a `sync` that named `asked`. */
function take(timeline, asked, changes, rev, { heard = timeline.heard, ...more } = {}) {
  timeline.take({ changes, rev, truncated: false, reset: false, ...more }, { asked, heard, oldestSeq: 1 });
}

/** A timeline that holds these seqs, each at the rev of its seq. */
function holding(first, last) {
  const timeline = new Timeline();
  take(timeline, null, range(first, last), last);
  return timeline;
}

test("of two states of a message the greater rev holds, whichever comes first", () => {
  for (const order of [[4, 5], [5, 4]]) {
    const timeline = holding(1, 3);
    for (const rev of order) timeline.put(edited(2, rev));
    assert.equal(find(timeline, 2).content, "text 5");
  }
});

test("an answer adds one's own reaction to the same state, and an event leaves it as it is", () => {
  const timeline = holding(1, 3);
  timeline.hear(edited(2, 4));
  timeline.put(edited(2, 4, { my_reaction: "like" }));
  timeline.hear(edited(2, 5));
  assert.equal(find(timeline, 2).my_reaction, "like");
});

test("events beyond a gap are shown, and count once the gap is filled", () => {
  const timeline = holding(1, 3);
  for (const seq of [5, 6]) timeline.hear(message(seq));
  assert.deepEqual([timeline.isBehind, timeline.hasHole, timeline.rev], [true, true, 3]);
  const { heard } = timeline;
  timeline.hear(message(7));
  take(timeline, 3, [answered(4), answered(5)], 5, { heard });
  assert.deepEqual([timeline.isBehind, timeline.hasHole, timeline.rev], [false, false, 7]);
});

test("what was heard while the answer came is looked at again", () => {
  const timeline = holding(1, 3);
  timeline.hear(message(5));
  const { heard } = timeline;
  timeline.hear(message(8));
  take(timeline, 3, [answered(4), answered(5)], 5, { heard });
  assert.equal(timeline.isBehind, true);
  take(timeline, 5, [answered(6), answered(7), answered(8)], 8);
  assert.equal(timeline.isBehind, false);
});

test("an event that overtakes the first answer is missed by it", () => {
  const timeline = new Timeline();
  const { heard } = timeline;
  timeline.hear(message(4));
  take(timeline, null, range(1, 3), 3, { heard });
  assert.equal(timeline.isBehind, true);
});

test("an answer to a rev is not taken for the whole of what has been dropped since", () => {
  const timeline = holding(1, 3);
  timeline.reset();
  take(timeline, 3, [answered(4)], 4);
  assert.deepEqual([timeline.rev, seqs(timeline)], [null, []]);
});

test("after a long absence the newest messages leave no hole below that looks complete", async () => {
  for (const [asked, reset] of [[3, true], [null, false]]) {
    const timeline = holding(1, 3);
    take(timeline, asked, range(51, 60), 60, { reset });
    assert.deepEqual([seqs(timeline).at(0), timeline.hasOlder], [51, true]);
    const before = [];
    await timeline.loadOlder(async (seq) => {
      before.push(seq);
      return { messages: range(1, 50), has_more: false };
    });
    assert.deepEqual(before, [51]);
    assert.deepEqual([seqs(timeline).length, timeline.hasOlder], [60, false]);
  }
});

test("a server that is behind what was heard of it is believed", () => {
  const timeline = holding(1, 9);
  timeline.hear(message(10));
  take(timeline, 10, range(1, 4), 4, { reset: true });
  assert.deepEqual([timeline.rev, seqs(timeline).length, timeline.isBehind], [4, 4, false]);
});

test("an older answer for a room that is held changes nothing", () => {
  const timeline = holding(1, 9);
  take(timeline, null, range(4, 8), 8);
  assert.deepEqual([timeline.rev, seqs(timeline).length], [9, 9]);
});

test("a change of a message before those held is not taken, but its quotes are", () => {
  const timeline = holding(50, 60);
  timeline.hear(message(61, 61, { reply_to: { id: "m7", seq: 7, sender: { id: "ana" }, content: "text 7" } }));
  timeline.hear(edited(7, 62));
  timeline.react(reaction(8, 63, "ana", "like", { like: 1 }), ME);
  assert.deepEqual([timeline.firstSeq, timeline.rev, find(timeline, 7)], [50, 63, undefined]);
  assert.equal(find(timeline, 61).reply_to.content, "text 62");
  timeline.hear(message(7, 64, { deleted_at: "now", content: "" }));
  assert.equal(find(timeline, 61).reply_to.content, "");
});

test("a page of history that was made before a change it should show is asked again", async () => {
  for (const change of [(to) => to.hear(edited(2, 5)), (to) => to.react(reaction(2, 5, "ana", "like", { like: 1 }), ME)]) {
    const timeline = holding(3, 4);
    const pages = [[answered(1), answered(2)], [answered(1), edited(2, 5, { my_reaction: null })]];
    await timeline.loadOlder(async () => {
      if (pages.length === 2) change(timeline);
      return { messages: pages.shift(), has_more: false };
    });
    assert.deepEqual([find(timeline, 2).rev, timeline.rev], [5, 5]);
  }
});

test("a page of history that comes after a reset is dropped", async () => {
  const timeline = holding(10, 20);
  const found = await timeline.loadOlder(async () => {
    take(timeline, 20, range(90, 99), 99, { reset: true });
    return { messages: range(5, 9), has_more: true };
  });
  assert.deepEqual([found, timeline.firstSeq, seqs(timeline).length], [false, 90, 10]);
});

test("asking twice for older messages asks the server once", async () => {
  const timeline = holding(10, 20);
  let asked = 0;
  const ask = async () => ({ messages: range(5, 9), has_more: (asked += 1) > 0 });
  assert.deepEqual(await Promise.all([timeline.loadOlder(ask), timeline.loadOlder(ask)]), [true, true]);
  assert.equal(asked, 1);
});

test("a failed page leaves things as they were, and the next try works", async () => {
  const timeline = holding(10, 20);
  await assert.rejects(timeline.loadOlder(async () => Promise.reject(new Error("lost"))), /lost/);
  assert.equal(timeline.hasOlder, true);
  assert.equal(await timeline.loadOlder(async () => ({ messages: range(1, 9), has_more: false })), true);
});

test("a reaction after a missed edit shows its count, and the edit is not lost under it", () => {
  const timeline = holding(1, 3);
  timeline.react(reaction(2, 6, "ana", "like", { like: 2 }), ME);
  assert.deepEqual([find(timeline, 2).reaction_counts, timeline.isBehind], [{ like: 2 }, true]);
  // Made before that reaction, with the edit in it.
  take(timeline, 3, [edited(2, 5, { reactions: { like: ["eva"] }, reaction_counts: { like: 1 } })], 5, { heard: 0 });
  const { content, reaction_counts: counts } = find(timeline, 2);
  assert.deepEqual([content, counts, timeline.isBehind], ["text 5", { like: 2 }, true]);
  take(timeline, 5, [edited(2, 6, { content: "text 5", reaction_counts: { like: 2 }, my_reaction: null })], 6);
  assert.deepEqual([find(timeline, 2).content, timeline.isBehind], ["text 5", false]);
});

test("a reaction to a message that is missing is missing too", () => {
  const timeline = holding(1, 3);
  timeline.react(reaction(4, 5, "ana", "like", { like: 1 }), ME);
  assert.equal(timeline.isBehind, true);
});

test("one's own reaction from another device is known although a later edit came first", () => {
  const timeline = holding(1, 3);
  timeline.hear(edited(2, 5, { reactions: { like: [ME] }, reaction_counts: { like: 1 } }));
  timeline.react(reaction(2, 4, ME, "like", { like: 1 }), ME);
  assert.deepEqual([find(timeline, 2).my_reaction, timeline.rev], ["like", 5]);
});

test("one's own reaction that was heard of after an answer was made stays", () => {
  const timeline = holding(1, 3);
  timeline.react(reaction(2, 6, ME, "like", { like: 1 }), ME);
  timeline.put(edited(2, 5, { my_reaction: null }));
  assert.deepEqual([find(timeline, 2).my_reaction, find(timeline, 2).content], ["like", "text 5"]);
});

test("a quote follows the newest state of what it quotes, whatever comes last", () => {
  const timeline = holding(1, 3);
  const quoting = (content) => ({ reply_to: { id: "m2", seq: 2, sender: { id: "ana" }, content } });
  timeline.hear(message(4, 4, quoting("text 2")));
  timeline.hear(edited(2, 6));
  timeline.put(edited(2, 5));
  assert.equal(find(timeline, 4).reply_to.content, "text 6");
  timeline.put(message(4, 4, { ...quoting("text 5"), my_reaction: null }));
  assert.equal(find(timeline, 4).reply_to.content, "text 6");
});

test("a reaction moves from one list to another, and lists stay short", () => {
  const timeline = holding(1, 1);
  for (let user = 1; user <= 25; user += 1) timeline.react(reaction(1, 1 + user, `u${user}`, "like", { like: user }), ME);
  assert.deepEqual([find(timeline, 1).reactions.like.length, find(timeline, 1).reaction_counts], [20, { like: 25 }]);
  timeline.react(reaction(1, 27, "u1", "love", { like: 24, love: 1 }), ME);
  assert.deepEqual([find(timeline, 1).reactions.like.length, find(timeline, 1).reactions.love], [19, ["u1"]]);
  timeline.react(reaction(1, 28, "u1", null, { like: 24 }), ME);
  assert.equal("love" in find(timeline, 1).reactions, false);
});

test("an empty room is known to be empty", () => {
  const timeline = new Timeline();
  take(timeline, null, [], 0);
  assert.deepEqual([timeline.rev, timeline.hasOlder], [0, false]);
  timeline.hear(message(1));
  assert.deepEqual([seqs(timeline), timeline.rev], [[1], 1]);
});
