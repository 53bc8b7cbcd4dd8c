-- Version 7: what made each write dearer than any question was worth.

-- The latest end of a trace is looked for where a turn goes that had it, and nowhere else.
DROP INDEX measures_of_trace_by_end;
-- Most turns that begin something follow none.
DROP INDEX turns_taken;
CREATE INDEX turns_taken ON turns (parent, started_at)
    WHERE parent IS NOT NULL AND answered AND rule NOT IN ('child_of_call', 'child_of_session', 'history_summarized');
