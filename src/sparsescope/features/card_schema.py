"""The tables that format 2 adds to a feature database: what is looked up to show every latent of a run at once.

    cards          one narrow row for every latent, dead ones too: the numbers that rules compare
    card_columns   the same numbers column by column: what tables are sorted and filtered by
    card_bodies    its texts and blobs, read only for the latents on a page; `words` are its tokens, and `affirmed` is
                   the explanation without its negated parts. card_words is the search index over it, of word stems
    tokens         the texts of tokens that latents respond to ── token_shares: which latents, and how much of each
    strongest      by fragment, the latents for which it is among the strongest
    simulations    what an explanation predicts on the stored contexts
    matches        latents of one dictionary paired with those of another
    overviews      counts and scatter of a dictionary
    prepared       with what settings all of this was made
    vocabulary     the text of every token id

The id of a card is made of its dictionary and latent, so that a dictionary's cards lie side by side and one
is found without an index.
"""

SHIFT = 32
"""A card's id is (dictionary << SHIFT) + latent."""


# Everything may be there already: two processes may open a database of format 1 at the same time.
CARD_TABLES = f"""
CREATE TABLE IF NOT EXISTS vocabulary (id INTEGER PRIMARY KEY, text TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cards (
  id INTEGER PRIMARY KEY, dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
  latent INTEGER NOT NULL, density REAL NOT NULL, maximum REAL NOT NULL, entropy REAL, score REAL, f1 REAL,
  effect REAL, explained INTEGER NOT NULL, CHECK (id = (dictionary << {SHIFT}) + latent)
);
CREATE TABLE IF NOT EXISTS card_columns (
  dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE, name TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (dictionary, name)
);
CREATE TABLE IF NOT EXISTS card_bodies (
  id INTEGER PRIMARY KEY REFERENCES cards ON DELETE CASCADE, explainer TEXT, explanation TEXT, label TEXT,
  affirmed TEXT, tokens TEXT NOT NULL, words TEXT NOT NULL, histogram BLOB, firing BLOB, effects BLOB
);
CREATE VIRTUAL TABLE IF NOT EXISTS card_words
  USING fts5 (
    explanation, affirmed, words, label, content='card_bodies', content_rowid='id', tokenize='porter', prefix='3 4'
  );
CREATE TRIGGER IF NOT EXISTS card_added AFTER INSERT ON card_bodies BEGIN
  INSERT INTO card_words (rowid, explanation, affirmed, words, label)
    VALUES (new.id, new.explanation, new.affirmed, new.words, new.label);
END;
CREATE TRIGGER IF NOT EXISTS card_removed AFTER DELETE ON card_bodies BEGIN
  INSERT INTO card_words (card_words, rowid, explanation, affirmed, words, label)
    VALUES ('delete', old.id, old.explanation, old.affirmed, old.words, old.label);
END;
CREATE TABLE IF NOT EXISTS tokens (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS token_shares (
  token INTEGER NOT NULL REFERENCES tokens, share REAL NOT NULL,
  dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE, latent INTEGER NOT NULL,
  PRIMARY KEY (token, share DESC, dictionary, latent)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS token_shares_by_dictionary ON token_shares (dictionary);
CREATE TABLE IF NOT EXISTS strongest (
  corpus INTEGER NOT NULL REFERENCES corpora ON DELETE CASCADE, fragment INTEGER NOT NULL, place INTEGER NOT NULL,
  dictionary INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE, latent INTEGER NOT NULL,
  code REAL NOT NULL, PRIMARY KEY (corpus, fragment, place, dictionary, latent)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS strongest_by_dictionary ON strongest (dictionary);
CREATE TABLE IF NOT EXISTS simulations (
  latent INTEGER NOT NULL REFERENCES latents ON DELETE CASCADE, kind TEXT NOT NULL, body BLOB NOT NULL,
  PRIMARY KEY (latent, kind)
);
CREATE TABLE IF NOT EXISTS matches (
  first INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
  second INTEGER NOT NULL REFERENCES dictionaries ON DELETE CASCADE,
  latents BLOB NOT NULL, others BLOB NOT NULL, cosines BLOB NOT NULL,
  PRIMARY KEY (first, second), CHECK (first < second)
);
CREATE INDEX IF NOT EXISTS matches_by_second ON matches (second);
CREATE TABLE IF NOT EXISTS overviews (
  dictionary INTEGER PRIMARY KEY REFERENCES dictionaries ON DELETE CASCADE, counts TEXT NOT NULL, scatter TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS prepared (
  dictionary INTEGER PRIMARY KEY REFERENCES dictionaries ON DELETE CASCADE, settings TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS corpus_gone AFTER DELETE ON corpora WHEN old.split = 'test' BEGIN
  DELETE FROM prepared;
END;
"""
