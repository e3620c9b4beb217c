Feature: Keep what a slot has computed
  In a file of the operator's folder, to be put back after a restart, or forgotten.

  Scenario: What was saved is found by another server
    When I ask for a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief", "n_predict": 4, "id_slot": 2, "temperature": 0}
      """
    And I save the slot 2 as "times.bin"
    Then the status is 200
    And the answer's "id_slot" is 2
    And the answer's "filename" is "times.bin"
    And the answer's "n_saved" is 38
    Given a server with contexts of 64 tokens
    When I restore the slot 1 as "times.bin"
    Then the status is 200
    And the answer's "n_restored" is 38
    When I ask for a completion:
      """
      {"prompt": "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it was the epoch of belief", "n_predict": 4, "cache_prompt": true, "temperature": 0}
      """
    Then the answer's "tokens_cached" is 34

  Scenario: What is erased is computed anew
    When I ask for a completion:
      """
      {"prompt": "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse", "n_predict": 0, "id_slot": 3}
      """
    And I erase the slot 3
    Then the status is 200
    And the answer's "n_erased" is 22
    When I ask for a completion:
      """
      {"prompt": "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse", "n_predict": 0, "cache_prompt": true}
      """
    Then the answer's "tokens_cached" is 0

  Scenario: A saved slot keeps its salt
    When I ask for a completion:
      """
      {"prompt": "The secret plan of the first of two users begins with a very long walk to the lake and back", "n_predict": 0, "id_slot": 1, "cache_salt": "mine"}
      """
    And I save the slot 1 as "salted.bin"
    Given a server with contexts of 64 tokens
    When I restore the slot 0 as "salted.bin"
    And I ask for a completion:
      """
      {"prompt": "The secret plan of the first of two users begins with a very long walk to the lake and back", "n_predict": 0, "cache_prompt": true}
      """
    Then the answer's "tokens_cached" is 0
    When I ask for a completion:
      """
      {"prompt": "The secret plan of the first of two users begins with a very long walk to the lake and back", "n_predict": 0, "cache_prompt": true, "cache_salt": "mine"}
      """
    Then the answer's "tokens_cached" is 19

  Scenario: Another model's is refused
    When I save the slot 0 as "another.bin"
    Given a server whose model fills gaps
    When I restore the slot 0 as "another.bin"
    Then the status is 400
    And the error's param is "filename"
    And the error says "another model"

  Scenario Outline: Bad input is told by its place: <path> <body>
    Given a file "nonsense.bin" that is no saved slot
    When I post to "<path>" as "application/json":
      """
      <body>
      """
    Then the status is 400
    And the error's param is "<param>"
    And the error says "<message>"

    Examples:
      | path                    | body                         | param    | message                    |
      | /slots/0                | {"filename": "a"}            | action   | not one of save            |
      | /slots/0?action=keep    | {"filename": "a"}            | action   | not one of save            |
      | /slots/0?action=save    | {}                           | filename | a plain name               |
      | /slots/0?action=save    | {"filename": "../a"}         | filename | a plain name               |
      | /slots/0?action=restore | {"filename": "a.part"}       | filename | a plain name               |
      | /slots/0?action=restore | {"filename": "nothing.bin"}  | filename | there is no such file      |
      | /slots/0?action=restore | {"filename": "nonsense.bin"} | filename | does not begin like one    |
      | /slots/9?action=erase   | {}                           | id_slot  | there is no slot 9         |
      | /slots/x?action=erase   | {}                           | id_slot  | no slot                    |

  Scenario: The operator says where
    Given a server that answers nothing that can be switched off
    When I erase the slot 0
    Then the status is 501
    And the error says "--slot-save-path"
