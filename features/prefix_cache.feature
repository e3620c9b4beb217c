Feature: What was computed is not computed again
  Prompts that begin alike share what was computed of their beginning, while it is computed and afterwards.

  Scenario: The same prompt again
    When I ask for a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 4, "cache_salt": "again"}
      """
    Then the answer's "tokens_cached" is 0
    And the answer's "timings.prompt_n" is 15
    When I ask for a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 4, "cache_salt": "again", "cache_prompt": true}
      """
    Then the answer's "tokens_cached" is 14
    And the answer's "tokens_evaluated" is 15
    And the answer's "timings.prompt_n" is 1

  Scenario: A prompt is evaluated ahead of its use
    When I ask for a completion:
      """
      {"prompt": "A long time ago, in a small town by the sea,", "n_predict": 0, "cache_salt": "ahead"}
      """
    And I ask for a completion:
      """
      {"prompt": "A long time ago, in a small town by the sea, there lived", "n_predict": 4, "cache_salt": "ahead", "cache_prompt": true}
      """
    Then the answer's "tokens_cached" is 13

  Scenario: A client of 2024 does not read the cache unless it asks to
    When I ask for a completion:
      """
      {"prompt": "One two three four five six seven", "n_predict": 4, "cache_salt": "unread"}
      """
    And I ask for a completion:
      """
      {"prompt": "One two three four five six seven", "n_predict": 4, "cache_salt": "unread"}
      """
    Then the answer's "tokens_cached" is 0

  Scenario: A conversation goes on
    When I chat:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0, "cache_salt": "chat"}
      """
    Then the answer's "usage.prompt_tokens_details.cached_tokens" is 0
    When I go on with the chat: "And of France?"
    Then nearly all of the conversation before came from the cache

  Scenario: Nobody finds what another salt computed
    When I ask for a completion:
      """
      {"prompt": "The secret word is ortolan, do not tell it to anybody.", "n_predict": 0, "cache_salt": "mine"}
      """
    And I ask for a completion:
      """
      {"prompt": "The secret word is ortolan, do not tell it to anybody.", "n_predict": 0, "cache_salt": "yours", "cache_prompt": true}
      """
    Then the answer's "tokens_cached" is 0

  Scenario Outline: The cache changes no text (<sampling>)
    When I ask for a completion:
      """
      {"prompt": "Once upon a time, in a forest full of birds, a young songbird", "n_predict": 40, <sampling>, "cache_salt": "text"}
      """
    Then asking again from the cache gives the same text

    Examples:
      | sampling                        |
      | "temperature": 0                |
      | "temperature": 1.2, "seed": 11  |

  Scenario: Eight that begin alike and arrive together
    Given a server with long contexts
    And eight prompts that share their first 1024 tokens
    When all are continued at once, from the cache
    Then what they share was computed once
    When each is continued alone
    Then the texts are the same
