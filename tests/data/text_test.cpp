#include "engine/data/text.hpp"

#include <set>

#include "tests/data_path.hpp"
#include "tests/files/scratch.hpp"

namespace coppice {
namespace {

using test::Scratch;

DataConfig text_config(const std::string& train) {
  DataConfig config;
  config.train = train;
  config.batch_size = 2;
  config.steps = 3;
  config.valid_fraction = 0.2;
  config.test_fraction = 0.2;
  return config;
}

std::vector<std::string> tokens_of(const std::string& text, DataConfig config) {
  const Scratch scratch;
  config.train = scratch.put("t.txt", text);
  config.valid = config.test = config.train;
  config.batch_size = 1;
  const DataSet data = open_data(config, 1);
  std::vector<std::string> tokens;
  for (int32_t id : encode_text("t", text, config, *data.vocabulary)) {
    tokens.push_back(data.vocabulary->entries.at(static_cast<size_t>(id)));
  }
  return tokens;
}

using Tokens = std::vector<std::string>;

TEST(Text, Words) {
  DataConfig config;
  EXPECT_EQ(tokens_of(" a  b\tc\r\n\nd", config), (Tokens{"a", "b", "c", "<eos>", "<eos>", "d", "<eos>"}));
  config.end_of_line = "";
  EXPECT_EQ(tokens_of(" a  b\n\nd", config), (Tokens{"a", "b", "d"}));
  config.lowercase = true;
  EXPECT_EQ(tokens_of("ÀB ΣΑΣ ЖЁ ß×÷Þ \xf0\x9f\x98\x80Z", config),
            (Tokens{"àb", "σασ", "жё", "ß×÷þ", "\xf0\x9f\x98\x80z"}));
}

TEST(Text, Punctuation) {
  DataConfig config;
  config.split_punctuation = true;
  EXPECT_EQ(tokens_of("God's \"well-known\" day; <unk> (end). 'tis - 3.5 — “so”\n", config),
            (Tokens{"God's", "\"",  "well-known", "\"", "day", ";", "<unk>", "(", "end", ")", ".",
                    "'",     "tis", "-",          "3",  ".",   "5", "—",     "“", "so",  "”", "<eos>"}));
  EXPECT_EQ(tokens_of("a--b c'' <eos> d\n", config),
            (Tokens{"a", "-", "-", "b", "c", "'", "'", "<eos>", "d", "<eos>"}));
}

TEST(Text, Characters) {
  DataConfig config;
  config.token = "character";
  config.lowercase = true;  // does nothing here
  EXPECT_EQ(tokens_of("\xef\xbb\xbf"
                      "aÉ\r\n☃😀 ",
                      config),
            (Tokens{"a", "É", "\r", "\n", "☃", "😀", " "}));
}

TEST(Text, VocabularyByFrequencyThenBytes) {
  const Scratch scratch;
  DataConfig config = text_config(scratch.put("t.txt", "b b b a a c c d e\n"));
  config.valid = config.test = config.train;
  DataSet data = open_data(config, 1);
  EXPECT_EQ(data.vocabulary->entries, (Tokens{"b", "a", "c", "<eos>", "d", "e"}));
  EXPECT_EQ(data.vocabulary->unknown, -1);
  EXPECT_EQ(data.vocabulary->end_of_line, 3);
  EXPECT_EQ(data.shape.vocabulary, 6);
  EXPECT_EQ(data.shape.classes, 6);
  EXPECT_FALSE(data.shape.character);
  config.vocabulary_size = 4;  // b, a, c and <unk>, which stands for <eos>, d and e: as frequent as b
  data = open_data(config, 1);
  EXPECT_EQ(data.vocabulary->entries, (Tokens{"<unk>", "b", "a", "c"}));
  EXPECT_EQ(data.vocabulary->unknown, 0);
  EXPECT_EQ(data.vocabulary->end_of_line, -1);
  config.vocabulary_size = 100;
  EXPECT_EQ(open_data(config, 1).vocabulary->entries, (Tokens{"b", "a", "c", "<eos>", "d", "e", "<unk>"}));
}

TEST(Text, VocabularyComesFromTheTrainingPart) {
  const Scratch scratch;
  DataConfig config = text_config(scratch.put("t.txt", "a b a b a b z z z y"));
  config.end_of_line = "";
  DataSet data = open_data(config, 1);                                // 6 + 2 + 2 tokens
  EXPECT_EQ(data.vocabulary->entries, (Tokens{"a", "b", "y", "z"}));  // split-off types come last, by bytes
  EXPECT_EQ(data.train->targets(), 4);
  EXPECT_EQ(data.valid->targets(), 1);
  EXPECT_EQ(data.test->targets(), 1);
  config.vocabulary_size = 9;
  data = open_data(config, 1);
  EXPECT_EQ(data.vocabulary->entries, (Tokens{"a", "b", "<unk>"}));
  Batch batch;
  data.test->read(0, batch);
  EXPECT_EQ(batch.ids, (std::vector<int32_t>{2}));
}

TEST(Text, BatchesAreColumns) {
  const Scratch scratch;
  std::string text;
  for (int i = 0; i < 21; ++i) text += fmt::format("{:c} ", 'a' + i);
  DataConfig config = text_config(scratch.put("t.txt", text));
  config.valid = config.test = config.train;
  config.end_of_line = "";
  const DataSet data = open_data(config, 1);
  BatchSource& source = *data.train;  // two streams of ten: a..j and k..t; u is left out
  EXPECT_EQ(source.batches(), 3);
  EXPECT_EQ(source.targets(), 18);
  Batch batch;
  source.start_epoch(0);
  source.read(1, batch);  // random access
  EXPECT_EQ(batch.steps, 3);
  EXPECT_EQ(batch.batch, 2);
  EXPECT_TRUE(batch.carries_state);
  EXPECT_TRUE(batch.lengths.empty());
  EXPECT_EQ(batch.ids, (std::vector<int32_t>{3, 13, 4, 14, 5, 15}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{4, 14, 5, 15, 6, 16}));
  source.read(0, batch);
  EXPECT_FALSE(batch.carries_state);
  EXPECT_EQ(batch.ids, (std::vector<int32_t>{0, 10, 1, 11, 2, 12}));
  source.read(2, batch);
  EXPECT_EQ(batch.ids, (std::vector<int32_t>{6, 16, 7, 17, 8, 18}));
  EXPECT_EQ(batch.targets, (std::vector<int32_t>{7, 17, 8, 18, 9, 19}));
  EXPECT_ERROR(source.read(3, batch), bad_input, "batch 3");
  config.carry_state = false;
  config.steps = 4;
  const DataSet cut = open_data(config, 1);
  EXPECT_EQ(cut.train->batches(), 3);  // 4 + 4 + 1 steps
  cut.train->read(2, batch);
  EXPECT_EQ(batch.steps, 1);
  EXPECT_FALSE(batch.carries_state);
}

TEST(Text, BadFiles) {
  const Scratch scratch;
  const auto refused = [&](const std::string& text, std::initializer_list<std::string> words) {
    DataConfig config = text_config(scratch.put("bad.txt", text));
    try {
      open_data(config, 1);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::bad_input);
      for (const std::string& word : words) {
        EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
      }
    }
  };
  refused("", {"bad.txt", "empty"});
  refused(std::string("ab\0cd", 5), {"bad.txt", "byte 2", "NUL"});
  refused("ab\xff", {"bad.txt", "byte 2", "0xff"});
  refused("a b", {"bad.txt", "3 tokens for training"});
  refused("a b c d e f", {"bad.txt", "the validation part has 1 tokens"});
  for (const char* bad : {"\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80",
                          "\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98"}) {
    refused("abc " + std::string(bad), {"byte 4", "UTF-8"});
  }
  EXPECT_ERROR(open_data(text_config(scratch.path("none.txt")), 1), bad_input, "none.txt", "no such file");
  EXPECT_ERROR(open_data(text_config(scratch.path()), 1), bad_input, "is a folder");
  EXPECT_ERROR(open_data(text_config(""), 1), bad_input, "data.train");
}

TEST(Text, BadOptions) {
  const Scratch scratch;
  const DataConfig good = text_config(scratch.put("t.txt", "a b c d e f g h i j k l m n o p"));
  DataConfig config = good;
  config.token = "syllable";
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.token", "syllable");
  config = good;
  config.kind = "images";
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.kind", "images");
  config = good;
  config.vocabulary_size = 1;
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.vocabulary_size");
  config = good;
  config.batch_size = 0;
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.batch_size");
  config = good;
  config.valid_fraction = 0.7;
  config.test_fraction = 0.3;
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.valid_fraction");
  config = good;
  config.valid_fraction = 0;
  EXPECT_ERROR(open_data(config, 1), bad_input, "data.valid_fraction");
}

TEST(Text, UnknownWords) {
  const Scratch scratch;
  DataConfig config = text_config(scratch.put("t.txt", "a b a b\na b a b\n"));
  config.valid = scratch.put("v.txt", "a b\n\na q b\n");
  EXPECT_ERROR(open_data(config, 1), bad_input, "v.txt:3", "\"q\"");
  config.vocabulary_size = 10;
  DataSet data = open_data(config, 1);
  const auto ids = encode_text("v", "a q", config, *data.vocabulary);
  EXPECT_EQ(ids[1], data.vocabulary->unknown);

  // A model's vocabulary decides, its line-end token included.
  Vocabulary fixed;
  fixed.entries = {"b", "a", "EOL"};
  fixed.end_of_line = 2;
  config.valid = config.train;
  data = open_data(config, 1, &fixed);
  EXPECT_EQ(data.vocabulary->entries, fixed.entries);
  EXPECT_EQ(data.shape.vocabulary, 3);
  Batch batch;
  data.train->read(0, batch);
  EXPECT_EQ(batch.ids[0], 1);
  fixed.entries[1] = "c";
  EXPECT_ERROR(open_data(config, 1, &fixed), bad_input, "t.txt:1", "\"a\"");
  fixed.entries[1] = "b";
  EXPECT_ERROR(open_data(config, 1, &fixed), bad_input, "\"b\" twice");
}

TEST(Text, ShortTextsToEvaluateGetFewerStreams) {
  const Scratch scratch;
  Vocabulary vocabulary;
  vocabulary.token = "character";
  vocabulary.entries = {"a", "b"};
  DataConfig config;
  DataShape shape;
  auto source = open_split(config, scratch.put("s.txt", "abababa"), shape, &vocabulary);
  EXPECT_EQ(source->targets(), 3);  // three streams of two
  EXPECT_ERROR(open_split(config, scratch.put("s.txt", "a"), shape, &vocabulary), bad_input, "s.txt",
               "1 tokens");
  EXPECT_ERROR(open_split(config, scratch.put("s.txt", "abc"), shape, &vocabulary), bad_input, "s.txt:1",
               "\"c\"");
  EXPECT_ERROR(open_split(config, scratch.path("s.txt"), shape, nullptr), bad_input, "no vocabulary");
}

TEST(Text, PromptsHaveNoLineEnd) {
  Vocabulary vocabulary;
  vocabulary.entries = {"a", "b", "<eos>"};
  vocabulary.end_of_line = 2;
  EXPECT_EQ(encode_prompt("a b", {}, vocabulary), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(encode_prompt("a\nb", {}, vocabulary), (std::vector<int32_t>{0, 2, 1}));
  EXPECT_TRUE(encode_prompt("", {}, vocabulary).empty());
  EXPECT_ERROR(encode_prompt("a z", {}, vocabulary), bad_input, "prompt", "\"z\"");
}

TEST(Text, PennTreebank) {
  COPPICE_REQUIRE_DATA("ptb");
  DataConfig config;
  config.train = test::data_path("ptb/ptb.train.txt").string();
  config.valid = test::data_path("ptb/ptb.valid.txt").string();
  config.test = test::data_path("ptb/ptb.test.txt").string();
  DataSet data = open_data(config, 1);
  EXPECT_EQ(data.shape.vocabulary, 10000);
  EXPECT_EQ(data.vocabulary->entries[0], "the");
  EXPECT_EQ(data.vocabulary->entries[1], "<unk>");
  EXPECT_EQ(data.vocabulary->unknown, 1);
  EXPECT_EQ(data.train->targets(), 929589 / 20 * 20 - 20);
  EXPECT_EQ(data.train->batches(), 2324);
  EXPECT_EQ(data.valid->targets(), 73760 / 20 * 20 - 20);
  EXPECT_EQ(data.test->targets(), 82430 / 20 * 20 - 20);
  config.vocabulary_size = 10000;  // all types fit, and <unk> is one of them
  EXPECT_EQ(open_data(config, 1).vocabulary->entries, data.vocabulary->entries);
  config.batch_size = 1;
  EXPECT_EQ(open_data(config, 1).train->targets(), 929588);
}

TEST(Text, Bronte) {
  COPPICE_REQUIRE_DATA("charlm_bronte");
  DataConfig config;
  config.train = test::data_path("charlm_bronte/corpus.txt").string();
  config.token = "character";
  const DataSet data = open_data(config, 1);
  EXPECT_TRUE(data.shape.character);
  EXPECT_LE(data.shape.vocabulary, 108);
  EXPECT_EQ(data.vocabulary->entries[0], " ");
}

}  // namespace
}  // namespace coppice
