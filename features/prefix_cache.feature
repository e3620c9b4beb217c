Feature: Prefix cache
  Prompts with a common prefix share its cached blocks, both concurrently and in later requests.

  Scenario: a second request reuses the cached blocks of the first
    When I request a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 4, "cache_salt": "again"}
      """
    Then the response's "tokens_cached" is 0
    And the response's "timings.prompt_n" is 15
    When I request a completion:
      """
      {"prompt": "The quick brown fox jumps over the lazy dog and runs into the wood.", "n_predict": 4, "cache_salt": "again", "cache_prompt": true}
      """
    Then the response's "tokens_cached" is 14
    And the response's "tokens_evaluated" is 15
    And the response's "timings.prompt_n" is 1

  Scenario: a prompt evaluated with n_predict 0 is cached for later requests
    When I request a completion:
      """
      {"prompt": "A long time ago, in a small town by the sea,", "n_predict": 0, "cache_salt": "ahead"}
      """
    And I request a completion:
      """
      {"prompt": "A long time ago, in a small town by the sea, there lived", "n_predict": 4, "cache_salt": "ahead", "cache_prompt": true}
      """
    Then the response's "tokens_cached" is 13

  Scenario: /completion reuses cached blocks only with cache_prompt
    When I request a completion:
      """
      {"prompt": "One two three four five six seven", "n_predict": 4, "cache_salt": "unread"}
      """
    And I request a completion:
      """
      {"prompt": "One two three four five six seven", "n_predict": 4, "cache_salt": "unread"}
      """
    Then the response's "tokens_cached" is 0

  Scenario: a continued chat reuses the cached blocks of its earlier messages
    When I request a chat completion:
      """
      {"messages": [{"role": "user", "content": "Name the capital of Italy."}], "max_tokens": 24, "temperature": 0, "cache_salt": "chat"}
      """
    Then the response's "usage.prompt_tokens_details.cached_tokens" is 0
    When I continue the chat with the message "And of France?"
    Then all but at most two tokens of the previous conversation came from the cache

  Scenario: requests with different cache_salt share no blocks
    When I request a completion:
      """
      {"prompt": "The secret word is ortolan, do not tell it to anybody.", "n_predict": 0, "cache_salt": "mine"}
      """
    And I request a completion:
      """
      {"prompt": "The secret word is ortolan, do not tell it to anybody.", "n_predict": 0, "cache_salt": "yours", "cache_prompt": true}
      """
    Then the response's "tokens_cached" is 0

  Scenario Outline: cached blocks do not change the text (<sampling>)
    When I request a completion:
      """
      {"prompt": "Once upon a time, in a forest full of birds, a young songbird", "n_predict": 40, <sampling>, "cache_salt": "text"}
      """
    Then repeating the request with the prompt cache gives the same text

    Examples:
      | sampling                        |
      | "temperature": 0                |
      | "temperature": 1.2, "seed": 11  |

  Scenario: a prefix shared by concurrent prompts is computed once
    Given a server with long contexts
    And eight prompts that share their first 1024 tokens
    When all prompts are completed concurrently with the prompt cache
    Then the shared prefix was computed once
    When each prompt is completed alone
    Then the concurrent texts equal the texts completed alone
