/* The volume's write protocol, as DESIGN.md has it, for Spin: two sectors under a leaf under a top under the root record, a
 * ring of log blocks, rounds, flushes, checkpoints, recoveries, and a device that may lose whatever was not flushed. The power
 * goes at any step of any of them, the recoveries' own among them, or the program alone dies and the device's cache lives on.
 * What must hold, asserted at the end of each recovery's reading: every object has a version that opens; each sector is what
 * it was when last flushed, or newer; what one recovery has made durable the next one finds; no honest cut looks like a
 * damaged log.
 *
 * A version is a number that is never used twice and stands for content, counter and tag at once: "opens" is "is the number
 * that lies there". A place is two numbers: what a read sees, and what a cut would leave. Of several unflushed writes of a place
 * each may be the one that a cut leaves, which is chosen when they are issued. Not here: more than one block in flight, ZERO ranges, the
 * second copies of nodes and rings, failing I/O, and whoever alters the medium (the replay in powercut.c has all of these).
 *
 * -DR1 ... -DR10, -DDAHEAD: without that rule. */
#ifndef WRITES
#define WRITES 3
#endif
#ifndef CHECKPOINTS
#define CHECKPOINTS 2
#endif
#ifndef CUTS
#define CUTS 2
#endif
#ifndef LOGBLOCKS
#define LOGBLOCKS 4
#endif
#define RESERVE 2 /* what writers leave (R8) */
#define VERSIONS 32
#define BLOCKS 20
#define ROOTS 14

#define LEAF 2
#define TOP 3

typedef block_t {
	byte seq, prev, D, prefix;
	byte c[4] /* the version it names of each object; 0: none */
}
typedef root_t {
	byte top, D, tail, prev
}

/* What was ever sealed, by its number. */
block_t block[BLOCKS];
root_t root[ROOTS];
byte leaf_says0[VERSIONS], leaf_says1[VERSIONS], top_says[VERSIONS];
byte versions, blocks, roots;

/* The device: as read, and as a cut would leave it. */
byte seen[4], left[4];
byte log_seen[LOGBLOCKS], log_left[LOGBLOCKS];
byte root_seen, root_left;

/* The engine's memory. */
byte says[2], leaf, top;   /* the tree */
bool leaf_dirty, top_dirty;
byte group[2];             /* accepted, in no log block yet */
byte written, settled;     /* D */
byte next_seq, last_block, tail, older_tail;

/* The client. */
byte floor[2], newest[2];
byte writes, checkpoints, cuts;

byte i, b, end, found, was; /* scratch; zero between steps */
bool opens, behind;

inline may_stop()
{
	if
	:: cuts < CUTS -> cuts++; goto stopped
	:: true
	fi
}

/* Written, not flushed. */
inline put(seen_at, left_at, value)
{
	seen_at = value;
	if
	:: left_at = value
	:: true
	fi;
	may_stop()
}

inline put_durably(seen_at, left_at, value)
{
	put(seen_at, left_at, value);
	left_at = value
}

inline sync()
{
	may_stop();
	d_step {
		for (i : 0 .. 3) { left[i] = seen[i] }
		for (i : 0 .. LOGBLOCKS - 1) { log_left[i] = log_seen[i] }
		root_left = root_seen;
		i = 0
	}
}

inline forget()
{
	d_step {
		says[0] = 0; says[1] = 0; leaf = 0; top = 0; leaf_dirty = false; top_dirty = false;
		group[0] = 0; group[1] = 0; written = 0; settled = 0;
		next_seq = 0; last_block = 0; tail = 0; older_tail = 0
	}
}

inline seal_block(v0, v1, vl, vt, mark)
{
	d_step {
		assert(blocks < BLOCKS - 1);
		blocks++;
		block[blocks].seq = next_seq;
		block[blocks].prev = last_block;
		block[blocks].D = mark;
		block[blocks].prefix = next_seq - 1;
		block[blocks].c[0] = v0;
		block[blocks].c[1] = v1;
		block[blocks].c[LEAF] = vl;
		block[blocks].c[TOP] = vt;
		last_block = blocks;
		next_seq++
	}
}

#define PLACE ((next_seq - 1) % LOGBLOCKS)

inline round()
{
	if
	:: group[0] != 0 || group[1] != 0 ->
		seal_block(group[0], group[1], 0, 0, settled);
#ifndef R1
		put_durably(log_seen[PLACE], log_left[PLACE], last_block);
#endif
		if
		:: group[0] != 0 -> put(seen[0], left[0], group[0])
		:: else
		fi;
		if
		:: group[1] != 0 -> put(seen[1], left[1], group[1])
		:: else
		fi;
#ifdef R1
		put_durably(log_seen[PLACE], log_left[PLACE], last_block);
#endif
		d_step {
			written = (group[0] > group[1] -> group[0] : group[1]);
#ifdef DAHEAD
			settled = written;
#endif
			group[0] = 0;
			group[1] = 0
		}
	:: else
	fi
}

inline flush()
{
	round();
	sync();
	d_step {
		settled = (written > settled -> written : settled);
		floor[0] = newest[0];
		floor[1] = newest[1]
	}
}

/* The tree in memory is sealed, logged, written level by level, and the root names it. mark: the D that its log block says. */
inline bring_out(mark)
{
	d_step {
		if
		:: leaf_dirty -> versions++; leaf = versions; leaf_says0[leaf] = says[0]; leaf_says1[leaf] = says[1]; top_dirty = true
		:: else
		fi;
		if
		:: top_dirty -> versions++; top = versions; top_says[top] = leaf
		:: else
		fi;
		assert(versions < VERSIONS - 2)
	}
#ifndef R4
	if
	:: top_dirty ->
		seal_block(0, 0, (!leaf_dirty -> 0 : leaf), top, mark);
		put_durably(log_seen[PLACE], log_left[PLACE], last_block)
	:: else
	fi;
#else
	skip;
#endif
	if
	:: leaf_dirty ->
		put(seen[LEAF], left[LEAF], leaf);
#ifndef R6
		sync()
#else
		skip
#endif
	:: else
	fi;
	if
	:: top_dirty ->
		put(seen[TOP], left[TOP], top);
#ifndef R6
		sync()
#else
		skip
#endif
	:: else
	fi;
	d_step {
		assert(roots < ROOTS - 1);
		roots++;
		root[roots].top = top;
		root[roots].D = versions;
		root[roots].tail = next_seq;
		root[roots].prev = last_block
	}
#ifdef R7
	put(root_seen, root_left, roots);
	older_tail = next_seq; /* and its space is used before the root is durable */
#else
	put_durably(root_seen, root_left, roots);
	older_tail = tail;
#endif
	d_step {
		tail = next_seq;
		settled = versions;
		written = versions;
		leaf_dirty = false;
		top_dirty = false
	}
}

inline checkpoint()
{
	round();
#ifndef R5
	sync();
	settled = (written > settled -> written : settled);
#endif
	bring_out(settled)
}

/* What is right of object o, of which the parent says `found`: into found. Asserts that there is something. */
inline choose(o)
{
	d_step {
		opens = (found == 0 || seen[o] == found);
		was = found;
		behind = false;
		for (i : tail .. end - 1) {
			b = log_seen[i % LOGBLOCKS];
			if
			:: block[b].c[o] > was && block[b].c[o] <= settled ->
				found = block[b].c[o]; opens = (seen[o] == found); behind = false
			:: block[b].c[o] > was && block[b].c[o] > settled ->
				if
				:: seen[o] == block[b].c[o] -> found = block[b].c[o]; opens = true; behind = false
				:: else -> behind = true
				fi
			:: else
			fi
		}
		assert(opens);
		i = 0; b = 0
	}
}

inline follow_log()
{
	d_step {
		tail = root[root_seen].tail;
		older_tail = tail;
		settled = root[root_seen].D;
		last_block = root[root_seen].prev;
		end = tail;
		do
		:: end - tail < LOGBLOCKS ->
			b = log_seen[end % LOGBLOCKS];
			if
			:: b != 0 && block[b].seq == end && block[b].prev == last_block ->
				settled = (block[b].D > settled -> block[b].D : settled);
				last_block = b;
				end++
			:: else -> break
			fi
		:: else -> break
		od;
		/* a later block that says "all up to here was durable" would be called damage */
		i = end + 1;
		do
		:: i < tail + LOGBLOCKS ->
			b = log_seen[i % LOGBLOCKS];
			assert(!(b != 0 && block[b].seq == i && block[b].prefix >= end));
			i++
		:: else -> break
		od;
		next_seq = end;
		i = 0; b = 0
	}
}

inline recover()
{
#ifndef R10
	sync();
#endif
	follow_log();
	found = root[root_seen].top;
	choose(TOP);
	top_dirty = (behind || found != root[root_seen].top);
	top = found;
	found = top_says[top];
	choose(LEAF);
	leaf_dirty = behind;
	top_dirty = (top_dirty || found != top_says[top]);
	leaf = found;
	found = leaf_says0[leaf];
	choose(0);
	leaf_dirty = (leaf_dirty || found != leaf_says0[leaf]);
	says[0] = found;
	found = leaf_says1[leaf];
	choose(1);
	leaf_dirty = (leaf_dirty || found != leaf_says1[leaf]);
	says[1] = found;
	d_step { found = 0; was = 0; opens = false; behind = false }
	assert(says[0] >= floor[0] && says[0] <= newest[0]);
	assert(says[1] >= floor[1] && says[1] <= newest[1]);
	may_stop();
	if
	:: next_seq - tail < LOGBLOCKS -> end = 0
	:: else -> goto used_up /* the log is used up by cuts: read-only from here on */
	fi;
#ifdef R9
	bring_out(versions); /* D moves over what lost, before the root has dropped it */
#else
	bring_out(settled);
#endif
	d_step {
		floor[0] = says[0]; floor[1] = says[1];
		newest[0] = says[0]; newest[1] = says[1]
	}
}

#define ROOM (next_seq - older_tail < LOGBLOCKS - RESERVE)

active proctype volume()
{
	d_step { roots = 1; root[1].tail = 1; root_seen = 1; root_left = 1 }
	goto opening;
stopped:
	if
	:: d_step { /* the power goes */
		for (i : 0 .. 3) { seen[i] = left[i] }
		for (i : 0 .. LOGBLOCKS - 1) { log_seen[i] = log_left[i] }
		root_seen = root_left;
		i = 0
	   }
	:: true /* the program dies, what the device holds stays */
	fi;
	forget();
opening:
	recover();
	do
	:: writes < WRITES && ROOM ->
		if
		:: i = 0
		:: i = 1
		fi;
		if
		:: group[i] != 0 -> i = 0; round()
		:: else ->
			d_step {
				versions++; writes++;
				group[i] = versions; says[i] = versions; newest[i] = versions; leaf_dirty = true;
				i = 0
			}
		fi
	:: writes > 0 -> round()
	:: writes > 0 -> flush()
	:: checkpoints < CHECKPOINTS && next_seq - older_tail < LOGBLOCKS -> checkpoints++; checkpoint()
	:: cuts < CUTS -> cuts++; goto stopped
	:: break
	od;
used_up:
	skip
}
